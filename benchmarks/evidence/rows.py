"""The table of finished runs: one line of a CSV file a run; it survives being stopped."""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

Split = Literal["tuning", "dev", "fresh"]
Budget = Literal["steps", "time"]
# A split's seeds begin here, so that no two splits share one.
FIRST_SEED: dict[str, int] = {"dev": 0, "fresh": 10_000, "tuning": 20_000}


class Row(NamedTuple):
    """One finished run."""

    family: str
    task: str
    arm: str
    seed: int
    split: str  # tuning: chose weights; dev: chose among arms; fresh: confirms
    budget: str  # steps: as many as the sum has; time: as long as the sum takes
    setting: str  # the weights of static ones, "1 10 1"; else empty
    metric: str
    value: float  # of the metric, lower is better; NaN or infinite for a failed run
    others: str  # "name=value name=value"
    steps: int
    seconds: float  # of the runs side by side, divided by their number
    cost: float  # of a step, over the sum's; NaN where it was not measured

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a run one run."""
        names = ("family", "task", "arm", "seed", "split", "budget", "setting")
        return tuple(str(getattr(self, name)) for name in names)


_TYPES = (str, str, str, int, str, str, str, str, float, str, int, float, float)
HEADER = ",".join(Row._fields)


def read(path: pathlib.Path, say: Callable[[str], None] = print) -> list[Row]:
    """All whole lines; a last one that was cut off is left out, with a message.

    Raises:
      ValueError: the file is no such table, or a run is there twice.
    """
    if not path.exists():
        return []
    whole, _, cut = path.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        say(f"{path}: dropped an incomplete last line, {cut}")
    lines = whole.splitlines()
    if not lines:
        return []
    if lines[0] != HEADER:
        raise ValueError(
            f"{path} should begin with the line {HEADER}, found {lines[0]}; choose "
            "another file with --out"
        )
    rows: dict[tuple, Row] = {}
    for number, cells in enumerate(csv.reader(lines[1:]), start=2):
        try:
            row = Row._make(
                kind(cell) for kind, cell in zip(_TYPES, cells, strict=True)
            )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if row.key in rows:
            raise ValueError(
                f"{path}, line {number}: {' '.join(row.key)} is there twice; remove one"
            )
        rows[row.key] = row
    return list(rows.values())


def append(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Adds rows; on disk when this returns. One program at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if not whole:
        writer.writerow(Row._fields)
    writer.writerows(rows)
    with open(path, "ab") as file:
        file.truncate(whole)
        file.write(buffer.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def done(rows: Iterable[Row]) -> set[tuple[str, ...]]:
    """The keys of rows."""
    return {row.key for row in rows}


def shown(weights: Iterable[float]) -> str:
    """Weights as a setting: "1 10 0.1"."""
    return " ".join(f"{weight:g}" for weight in weights)
