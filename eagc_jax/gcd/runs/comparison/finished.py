"""A file of finished runs that survives being stopped.

One line of a CSV is one finished run. A program reads what is done, does what is
missing and appends; nothing written is ever rewritten.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from eagc_jax.gcd.runs.reading import MEGABYTE, read_bytes

_MOST = 64 * MEGABYTE  # some 500,000 runs


class FinishedRun(NamedTuple):
    """One run's result: a line of the file, its fields the columns."""

    dataset: str
    arm: str  # what was done differently
    seed: int
    all: float  # accuracies on the unlabeled images, in [0, 1]
    old: float
    new: float
    gdc: float  # gradient deviation; NaN where it was not measured
    soc: float  # subspace overlap; NaN where it was not measured
    seconds_per_step: float


_HEADER = ",".join(FinishedRun._fields) + "\n"
MEASURES = FinishedRun._fields[3:]


def read_runs(
    path: str | os.PathLike[str], say: Callable[[str], None] = print
) -> list[FinishedRun]:
    """The finished runs in a file.

    A last line without its line break was cut off while it was written: `say` gets a
    message and the line does not count. `append_run` then removes it.

    Args:
      path: of the CSV; it need not exist.
      say: called with the message.

    Returns:
      The runs in the order of the file; none if there is no file.

    Raises:
      ValueError: the file is no such table or larger than 64 MB, a line is not a run, or
        a run is there twice; the message names the line.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    whole, cut = _whole_lines(read_bytes(path, most=_MOST))
    if cut:
        say(f"{path}: dropped an incomplete last line, {cut.decode(errors='replace')}")
    if not whole:
        if not _HEADER.encode().startswith(cut):
            raise ValueError(_wrong_header(path, cut.decode(errors="replace")))
        return []
    header, *lines = whole.decode(errors="replace").splitlines()
    if header + "\n" != _HEADER:
        raise ValueError(_wrong_header(path, header))
    runs: dict[tuple[str, str, int], FinishedRun] = {}
    for number, line in enumerate(lines, start=2):
        try:
            run = _parsed(line)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {number}: {error}; found {line}") from error
        if run[:3] in runs:
            raise ValueError(
                f"{path}, line {number}: {run.dataset}, {run.arm}, seed {run.seed} "
                "is there twice; remove one"
            )
        runs[run[:3]] = run
    return list(runs.values())


def append_run(path: str | os.PathLike[str], run: FinishedRun) -> None:
    """Adds a run to the file, which is made if missing; on disk when this returns.

    The line goes out in one write and ends in its line break, so that whatever stops
    the program leaves whole lines and at most one cut one. One program at a time.

    Args:
      path: of the CSV.
      run: what to add.

    Raises:
      ValueError: an accuracy is not in [0, 1], the time is not positive, or a name has
        a line break.
    """
    line = _line(_checked(run))
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    whole, cut = _whole_lines(content)
    with open(path, "ab") as file:
        if cut:
            file.truncate(len(whole))
        file.write((line if whole else _HEADER + line).encode())
        file.flush()
        os.fsync(file.fileno())


def finished(runs: Iterable[FinishedRun]) -> set[tuple[str, str, int]]:
    """(data set, arm, seed) of every run.

    Examples:
      >>> finished([FinishedRun("digits", "plain", 0, 0.9, 0.9, 0.9, 0.1, 0.2, 0.01)])
      {('digits', 'plain', 0)}
    """
    return {run[:3] for run in runs}


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """Everything up to the last line break, and what follows it."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _wrong_header(path: pathlib.Path, found: str) -> str:
    return (
        f"{path} should begin with the line {_HEADER.strip()}, found {found}; choose "
        "another file for results"
    )


def _line(run: FinishedRun) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(run)
    return buffer.getvalue()


def _parsed(line: str) -> FinishedRun:
    cells = next(csv.reader([line], strict=True), [])
    if len(cells) != len(FinishedRun._fields):
        raise ValueError(
            f"should have {len(FinishedRun._fields)} fields, has {len(cells)}"
        )
    dataset, arm, seed, *numbers = cells
    return _checked(FinishedRun(dataset, arm, int(seed), *map(float, numbers)))


def _checked(run: FinishedRun) -> FinishedRun:
    for name in ("dataset", "arm"):
        if not getattr(run, name) or not getattr(run, name).isprintable():
            raise ValueError(f"{name} must be a name on one line, got {run!r}")
    for name in ("all", "old", "new"):
        if not 0 <= getattr(run, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(run, name)}")
    if not 0 < run.seconds_per_step < math.inf:
        raise ValueError(f"seconds_per_step must be positive, got {run}")
    return run._replace(
        seed=int(run.seed), **{name: float(getattr(run, name)) for name in MEASURES}
    )
