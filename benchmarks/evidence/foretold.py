"""Whether probes foretold what the trainings found, task by task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.evidence.arms import AGGREGATED, ARMS, SUM
from benchmarks.evidence.probing import STATISTICS, Probed
from benchmarks.evidence.rows import Row
from benchmarks.evidence.statistics import Comparison, compared, errors, holm

# In view of whose probes and trainings the rules were last changed.
SEEN = (
    *(
        ("rewards", f"{kind}-{units}")
        for kind in ("table", "network")
        for units in ("units", "alike")
    ),
    *(("multitask", name) for name in ("scales-cells", "scales-wine", "wrong-digits")),
    *(("physics", "burgers"), ("physics", "helmholtz"), ("continual", "split-digits")),
)
FEWEST_TASKS = 4  # for a threshold that is learned from the others


class Outcome(NamedTuple):
    """What trainings of the same number of steps found on a task."""

    # Of the aggregators that surely beat the sum the one with the smallest p, or where
    # none does, the one with the smallest error.
    arm: str
    comparison: Comparison  # with the plain sum
    p: float  # Holm's, over the task's aggregators
    better: bool  # p below 0.05, and the error smaller

    @property
    def text(self) -> str:
        """For a table."""
        change = 100 * math.expm1(self.comparison.difference.mean)
        said = "beats the sum:" if self.better else "none surely beats the sum, best"
        return f"{said} {ARMS[self.arm].title} {change:+.3g} %, p = {self.p:.3f}"


def outcomes(
    rows: Sequence[Row], split: str, names: Sequence[str] = AGGREGATED
) -> dict[tuple[str, str], Outcome]:
    """By family and task; of the arms named, those that were trained beside the sum."""
    found = {}
    mine = [r for r in rows if (r.split, r.budget) == (split, "steps")]
    for task in dict.fromkeys((row.family, row.task) for row in mine):
        of_task = [row for row in mine if (row.family, row.task) == task]
        control = errors([row for row in of_task if row.arm == SUM])
        arms = {
            name: compared(errors([r for r in of_task if r.arm == name]), control)
            for name in names
            if control and any(row.arm == name for row in of_task)
        }
        tested = {name: one for name, one in arms.items() if not math.isnan(one.p)}
        if tested:
            found[task] = _outcome(tested)
    return found


def _outcome(arms: Mapping[str, Comparison]) -> Outcome:
    p = dict(zip(arms, holm([one.p for one in arms.values()]), strict=True))
    helps = [name for name in arms if p[name] < 0.05 and _lower(arms[name])]
    if helps:
        best = min(helps, key=lambda name: arms[name].p)
    else:
        best = min(arms, key=lambda name: arms[name].difference.mean)
    return Outcome(best, arms[best], p[best], bool(helps))


def _lower(one: Comparison) -> bool:
    return one.difference.mean < 0


def section(rows: Sequence[Row], probes: Sequence[Probed]) -> Iterator[str]:
    """The page's lines; none without a task that was both probed and trained."""
    for split, title in (("fresh", "fresh seeds"), ("dev", "development seeds")):
        found = outcomes(rows, split)
        mine = _by_task(probes)
        tasks = [task for task in found if task in mine]
        if not tasks:
            continue
        yield f"\n### Against trainings on {title}\n"
        yield "| task | probes say | trainings say | |"
        yield "| --- | --- | --- | --- |"
        said = {task: says(mine[task]) for task in tasks}
        for task in tasks:
            hit = "hit" if said[task] == found[task].better else "**miss**"
            cells = (f"{task[0]}, {task[1]}", words(mine[task]), found[task].text, hit)
            yield f"| {' | '.join(cells)} |"
        right = {task: said[task] == found[task].better for task in tasks}
        later = [right[task] for task in tasks if task not in SEEN]
        since = f"; of those after their last change, {sum(later)} of {len(later)}"
        yield (
            f"\nThe rules: {sum(right.values())} of {len(tasks)} tasks"
            f"{since if later else ''}.\n"
        )
        yield from _learned(tasks, mine, {t: found[t].better for t in tasks})


def _by_task(probes: Sequence[Probed]) -> dict[tuple[str, str], list[Probed]]:
    found: dict[tuple[str, str], list[Probed]] = {}
    for one in probes:
        found.setdefault((one.family, one.task), []).append(one)
    return found


def says(probes: Sequence[Probed]) -> bool:
    """Whether a run is worth it: what most seeds say; half of them is enough to try."""
    return 2 * sum(one.worth_a_run for one in probes) >= len(probes)


def words(probes: Sequence[Probed]) -> str:
    """For a table."""
    kinds = [one.kind for one in probes]
    most = max(dict.fromkeys(kinds), key=kinds.count)
    raised = np.mean([one.raised for one in probes])
    return (
        f"{'try' if says(probes) else 'sum'} ({most}, {kinds.count(most)} of "
        f"{len(kinds)} seeds); {100 * raised:.0f} % of steps raise a loss"
    )


def _learned(tasks, mine, better) -> Iterator[str]:
    """One number and a threshold, learned on all tasks but the one it is tried on."""
    if len(tasks) < FEWEST_TASKS or len(set(better.values())) < 2:
        return  # nothing to learn from
    yield "One number with a threshold, leave-one-task-out:\n"
    yield "| number | right |"
    yield "| --- | --- |"
    for name in STATISTICS:
        values = [float(np.mean([getattr(p, name) for p in mine[t]])) for t in tasks]
        hits = left_out(values, [better[task] for task in tasks])
        yield f"| {name} | {hits} of {len(tasks)} |"
    yield ""


def left_out(values: Sequence[float], truth: Sequence[bool]) -> int:
    """How many a threshold gets right that was learned from all others.

    Examples:
      >>> left_out([1.0, 2.0, 3.0, 4.0], [False, False, True, True])
      4
    """
    hits = 0
    for i, value in enumerate(values):
        others = [
            (v, t) for j, (v, t) in enumerate(zip(values, truth, strict=True)) if j != i
        ]
        hits += _threshold(others)(value) == truth[i]
    return hits


def _threshold(known: Sequence[tuple[float, bool]]):
    """The stump with the fewest errors, halfway between neighbours."""
    ordered = sorted({value for value, _ in known})
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(ordered)]
    cuts = [-math.inf, *cuts, math.inf]

    def right(cut, above):
        return sum(((value > cut) == above) == truth for value, truth in known)

    cut, above = max(
        ((cut, above) for cut in cuts for above in (True, False)),
        key=lambda one: right(*one),
    )
    return lambda value: (value > cut) == above
