"""One arm against another, task by task, on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.evidence.arms import ARMS, SUM, TUNED
from benchmarks.evidence.rows import Row
from benchmarks.evidence.statistics import compared, errors


def lines(rows: Sequence[Row], arm: str, control: str) -> Iterator[str]:
    """A table in Markdown; p before any correction.

    Raises:
      ValueError: there is no such arm, or no task that both were trained on.
    """
    for name in (arm, control):
        if name not in ARMS:
            raise ValueError(f"arms are {', '.join(ARMS)}; got {name!r}")
    places = dict.fromkeys((r.family, r.task, r.split, r.budget) for r in rows)
    found = list(_found(rows, arm, control, places))
    if not found:
        raise ValueError(f"no task has seeds of both {arm} and {control}")
    yield f"| task | {ARMS[arm].title} against {ARMS[control].title} | better in | p |"
    yield "| --- | --- | --- | --- |"
    yield from found


def _found(rows, arm, control, places) -> Iterator[str]:
    for place in places:
        mine = [r for r in rows if r.arm in (arm, control) and _is_of(r, place)]
        ours, theirs = (
            errors([row for row in mine if row.arm == name]) for name in (arm, control)
        )
        of_budget = any(row.budget == place[-1] for row in mine)
        if not of_budget or not ours.keys() & theirs.keys():
            continue
        one = compared(ours, theirs)
        mean, low, high = (
            f"{100 * math.expm1(x):+.3g}"
            for x in (one.difference.mean, one.difference.low, one.difference.high)
        )
        family, task, split, budget = place
        yield (
            f"| {family}, {task}, {split} seeds, equal {budget} "
            f"| {mean} % [{low}, {high}] "
            f"| {one.wins} of {one.difference.pairs} | {one.p:.2g} |"
        )


def _is_of(row: Row, place: tuple[str, ...]) -> bool:
    """Whether it counts there; sums take equal steps and equal time at once."""
    *task, budget = place
    same = budget == "time" and row.arm in (SUM, TUNED) and row.budget == "steps"
    return [row.family, row.task, row.split] == task and (same or row.budget == budget)
