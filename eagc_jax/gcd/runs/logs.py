"""What a run says from epoch to epoch: CSV, JSON lines and TensorBoard's events."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from eagc_jax import _files
from eagc_jax._files import JsonObject
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.runs.reading import inside
from eagc_jax.gcd.runs.results import (
    METRICS_CSV,
    METRICS_JSONL,
    epoch_rows,
    flat,
    to_csv,
    to_json,
)

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

EVENTS = "tensorboard"  # the folder of event files


class Logs:
    """The logs of one run, brought up to date after every epoch.

    metrics.csv and metrics.jsonl have a row for every finished epoch, as
    `eagc_jax.gcd.runs.results.write_results` writes them: losses, accuracies where they
    are known, what was decided (by layer in the JSON lines, its mean over layers in the
    CSV), seconds. What is not known is an empty cell, or null.

    A run that goes on after it was killed goes on with its logs: at the first call what
    is there is replaced by the rows of its history, so that none is missing or comes
    twice. Then rows are appended.

    Args:
      folder: to write to, made if missing.
      tensorboard: whether event files are written too, in the folder `tensorboard`.

    Raises:
      ModuleNotFoundError: `tensorboard`, and tensorboardX is not installed.
      ValueError: the event files' folder is a link to another place.

    Examples:
      >>> import tempfile
      >>> from eagc_jax.gcd.evaluation.accuracy import Accuracy
      >>> history = RunHistory("sum", epochs=[1], accuracy=[Accuracy(0.5, 0.6, 0.4)])
      >>> history.losses, history.seconds = {"supervised": [0.25]}, [1.0]
      >>> with tempfile.TemporaryDirectory() as folder, Logs(folder) as logs:
      ...     logs.write(history)
      ...     print(pathlib.Path(folder, "metrics.csv").read_text().splitlines()[1])
      sum,1,0.5,0.6,0.4,0.25,,,1.0,

      While training: `for _ in run: logs.write(run.history)`.
    """

    def __init__(self, folder: str | os.PathLike[str], *, tensorboard: bool = False):
        self._folder = pathlib.Path(folder)
        self._events = None
        if tensorboard:
            self._events = _writer(inside(self._folder, EVENTS))
        self._written = -1  # epochs; negative before the first call
        self._columns: list[str] = []

    def __enter__(self) -> Logs:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the event file."""
        self.close()

    def close(self) -> None:
        """Closes the event file; the others are whole after every call."""
        if self._events is not None:
            self._events.close()

    def write(self, history: RunHistory) -> None:
        """Writes the epochs that are new.

        Raises:
          OSError: the folder can't be written, or the disk is full.
        """
        first = max(self._written, 0)
        rows = list(epoch_rows(history, first))
        short = [flat(row) for row in rows]
        columns = list(dict.fromkeys(key for row in short for key in row))
        if self._written < 0 or not set(columns) <= set(self._columns):
            self._begin(history)
        elif rows:
            lines = "".join(f"{to_json(row)}\n" for row in rows)
            _append(self._folder / METRICS_JSONL, lines)
            _append(self._folder / METRICS_CSV, to_csv(short, self._columns))
        if self._events is not None:
            _add_events(self._events, short)
        self._written = len(history.epochs)

    def _begin(self, history: RunHistory) -> None:
        rows = list(epoch_rows(history))
        short = [flat(row) for row in rows]
        self._columns = list(dict.fromkeys(key for row in short for key in row))
        lines = "".join(f"{to_json(row)}\n" for row in rows)
        _files.write_text(self._folder / METRICS_JSONL, lines)
        _files.write_text(self._folder / METRICS_CSV, to_csv(short) if short else "")


def _append(path: pathlib.Path, text: str) -> None:
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _writer(folder: pathlib.Path) -> SummaryWriter:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            "TensorBoard's logs need tensorboardX: pip install 'eagc_jax[tensorboard]'"
        ) from error
    # What was written before is replaced by what follows.
    return SummaryWriter(os.fspath(folder), purge_step=1)


def _add_events(writer: SummaryWriter, rows: list[JsonObject]) -> None:
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and value == value:  # no NaN
                writer.add_scalar(_tag(name), value, row["epoch"])
    writer.flush()


def _tag(name: str) -> str:
    """In TensorBoard's groups."""
    group, _, rest = name.partition("_")
    if group in ("loss", "gate", "weight", "projection"):
        return f"{group}/{rest}"
    return f"{'accuracy' if name in ('all', 'old', 'new') else 'epoch'}/{name}"
