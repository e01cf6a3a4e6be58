"""The page: tables and figures made of the rows, nothing else."""

from __future__ import annotations

import inspect
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.evidence import discovered, foretold, probing
from benchmarks.evidence.arms import ARMS, STATIC, SUM, TUNED
from benchmarks.evidence.figures import draw
from benchmarks.evidence.probing import Probed
from benchmarks.evidence.rows import FIRST_SEED, Row
from benchmarks.evidence.statistics import (
    FAILED,
    Comparison,
    Spread,
    compared,
    errors,
    failed,
    holm,
    spread,
)
from benchmarks.evidence.task import builders
from benchmarks.evidence.tuning import DECADES

_SPLITS = {"dev": "development seeds", "fresh": "fresh seeds"}
_BUDGETS = {"steps": "equal steps", "time": "equal time"}

HOW = """\
# Where coordination helps, and where it doesn't

`{report}` made this page of [{table}]({table}), which has {runs} runs, a line each. Every
number and figure below comes from there.

- *Error* is the task's own at the end of the training, lower is better: for physics the
  relative L2 error, for several tasks and for language the geometric mean of all
  objectives' held-out errors, for continual learning the mean share of wrong classes over
  all sessions, for rewards one over the geometric mean of the expected rewards, each over
  its largest (1.587 is the best; the two that compete trade off one for one, so that any
  weighted sum is best at an end of the front, and what weights reach in between is where
  the training leaves them). A run that ended in a NaN, or beyond the bound {bounds},
  counts as that bound, and as failed.
- All arms of a task have the same starts, batches, optimizer and learning rates, seed by
  seed. Differences are of the error's logarithm, paired by seed, with Student's 95 %
  interval: -10 % is an error a tenth smaller. p is Holm's, over all arms and tasks of a
  family, budget and split, for each of the two controls. **Bold**: the interval
  excludes zero; a star: p is below 0.05, too. 7/10: better in 7 of 10 seeds.
- *Tuned static weights*: the ratio of each objective's weight to the first one's over
  powers of ten, by turns (all combinations with `--full-grid`), from 0.01 to 100 and on
  where the best is at an end, then between them as often as `--refine` says; on two seeds
  that serve for nothing else. What that took is below each table, and isn't counted in
  *equal time*.
- *Equal time*: as many steps as take as long as the plain sum's. The cost of a step is
  measured by turns with the sum's, with all seeds side by side.
- What was chosen on development seeds is confirmed on fresh ones.
"""


FORETOLD = """\

## What a probe foretells

`diagnostics.probe` on the first 2 % of the plain sum's steps, {seeds} seeds a task
([{file}]({file})):

{commands}

It is right where it says that an aggregator is worth a run and one of those that were
trained beats the sum (Holm's p over the task's aggregators below 0.05), or where it says
that the sum will do and none does. A task that no table shows is left out. The rules were
last changed after probes and trainings of ten of these tasks had been seen, so that hits
there are no independent check; tasks that came later are, and thresholds learned from the
other tasks.

Numbers that were tried as thresholds: *raised* and *memory* are the shares of steps that
raise a loss, and of those by momentum alone; *opposed* the best worst cosine that any
direction has, *cosine* the lowest of a pair, both in the optimizer's metric; *imbalance*
the ratio of norms; *signal* and *across* tell batch noise: the cosine of an objective's
gradients of two batches, and of a gradient with the next batch's sum; *persistent* is 1
for a pair that conflicts in every step, *removal* what the losses on other batches gain
where conflicts are taken out of a step.
"""


class ArmTable(NamedTuple):
    """An arm on a task."""

    name: str
    errors: Spread
    failed: int
    parts: dict[str, float]  # what else the task measures, means over seeds
    cost: float
    to_sum: Comparison | None
    to_tuned: Comparison | None


class TaskTable(NamedTuple):
    """A task under one budget, on one split's seeds."""

    family: str
    task: str
    budget: str
    split: str
    steps: int
    arms: list[ArmTable]
    note: str  # on the tuning, or ""


def write(rows: Sequence[Row], table: pathlib.Path, page: pathlib.Path) -> int:
    """Writes the page and its figures beside it.

    Returns:
      0, or 2 without rows.
    """
    if not rows:
        print(f"{table} has no rows yet")
        return 2
    command = f"python -m benchmarks.evidence --report --out {table}"
    bounds = ", ".join(f"{bound:g} ({family})" for family, bound in FAILED.items())
    parts = [
        HOW.format(report=command, table=table.name, runs=len(rows), bounds=bounds)
    ]
    folder = page.with_suffix("")
    for family in dict.fromkeys(row.family for row in rows):
        mine = [row for row in rows if row.family == family]
        tables = list(task_tables(mine))
        parts.append(f"\n## {family.capitalize()}\n")
        parts.append("\n".join(commands(mine, table)) + "\n")
        for budget in dict.fromkeys(one.budget for one in tables):
            for split in dict.fromkeys(one.split for one in tables):
                shown = [t for t in tables if (t.budget, t.split) == (budget, split)]
                if not shown:
                    continue
                path = folder / f"{family}_{budget}_{split}.svg"
                if draw(shown, path):
                    title = f"{family}, {_BUDGETS[budget]}, {_SPLITS[split]}"
                    parts.append(f"![{title}]({folder.name}/{path.name})\n")
                parts += sections(shown)
    parts += discovered.section(table, folder)
    probes = probing.read(probing.beside(table))
    lines = list(foretold.section(rows, probes))
    if lines:
        parts.append(FORETOLD.format(**_of_probes(probes, table)) + "\n".join(lines))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")
    print(f"wrote {page}")
    return 0


def _of_probes(probes: Sequence[Probed], table: pathlib.Path) -> dict[str, str]:
    seeds = {(one.family, one.task): 0 for one in probes}
    for one in probes:
        seeds[one.family, one.task] += 1
    families = " ".join(dict.fromkeys(one.family for one in probes))
    return {
        "seeds": "/".join(map(str, sorted(set(seeds.values())))),
        "file": probing.beside(table).name,
        "commands": f"    python -m benchmarks.evidence --family {families} --probe "
        f"--seeds {max(seeds.values())} --out {table}",
    }


def commands(rows: Sequence[Row], table: pathlib.Path) -> Iterator[str]:
    """What gives these rows: a command for all tasks with the same arms and seeds."""
    groups: dict[tuple, list[str]] = {}
    for (task, budget, split), mine in grouped(rows).items():
        present = {row.arm for row in mine}
        arms = tuple(name for name in ARMS if name in present)
        seeds = [row.seed - FIRST_SEED[split] for row in mine]
        search = _search(rows, task) if TUNED in present else ""
        group = (budget, split, arms, min(seeds), max(seeds), search)
        groups.setdefault(group, []).append(task)
    for (budget, split, arms, first, last, search), tasks in groups.items():
        yield (
            f"    python -m benchmarks.evidence --family {rows[0].family} "
            f"--tasks {' '.join(tasks)} --arms {' '.join(arms)} "
            f"--seeds {last - first + 1} --first-seed {first} --split {split} "
            f"--budget {budget}{search} --out {table}"
        )


def _search(rows: Sequence[Row], task: str) -> str:
    """The options of the search for weights, told by the settings that it tried."""
    tried = {r.setting for r in rows if (r.task, r.arm) == (task, STATIC)}
    between = {one for one in tried if not all(map(_is_power, one.split()))}
    others = max((len(one.split()) for one in tried), default=1) - 1
    full = others > 1 and len(tried - between) >= len(DECADES) ** others
    halvings = -(-len(between) // (2 * others)) if between else 0
    return " --full-grid" * full + f" --refine {halvings}" * bool(halvings)


def _is_power(weight: str) -> bool:
    return math.log10(float(weight)).is_integer()


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by task, budget and split; sums take equal steps and equal time at once."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.split != "tuning":
            found.setdefault((row.task, row.budget, row.split), []).append(row)
    for (task, budget, split), mine in found.items():
        if budget == "time":
            same = found.get((task, "steps", split), [])
            mine += [row for row in same if row.arm in (SUM, TUNED)]
    return found


def description(family: str, task: str) -> str:
    """The first paragraph of what builds the task; empty for one that is gone."""
    builder = builders(family).get(task)
    text = inspect.getdoc(getattr(builder, "func", builder)) if builder else ""
    return " ".join((text or "").partition("\n\n")[0].split())


def task_tables(rows: Sequence[Row]) -> Iterator[TaskTable]:
    """All tasks of a family."""
    for (task, budget, split), mine in grouped(rows).items():
        by_arm = {
            name: [row for row in mine if row.arm == name]
            for name in ARMS
            if any(row.arm == name for row in mine)
        }
        found = {name: errors(some) for name, some in by_arm.items()}
        arms = [
            ArmTable(
                name,
                spread(list(found[name].values())),
                sum(map(failed, some)),
                _parts(some),
                some[0].cost,
                _against(found, name, SUM),
                _against(found, name, TUNED),
            )
            for name, some in by_arm.items()
        ]
        steps = max(row.steps for row in mine)
        note = _tuning(rows, task, by_arm.get(TUNED, []))
        yield TaskTable(mine[0].family, task, budget, split, steps, arms, note)


def sections(tables: Sequence[TaskTable]) -> Iterator[str]:
    """A table a task; Holm's correction is over all of these."""
    adjusted = corrected(tables)
    for table in tables:
        title = f"{table.task}: {_BUDGETS[table.budget]}, {_SPLITS[table.split]}"
        yield f"\n### {title}, {table.steps:,} steps\n"
        yield f"{description(table.family, table.task)}\n"
        yield (
            "| arm | seeds | median | geometric mean | 90 % | worst | failed | parts | "
            "cost | to the sum | p | to tuned weights | p |"
        )
        yield "|" + " --- |" * 13
        for arm in table.arms:
            yield "| " + " | ".join(_cells(table, arm, adjusted)) + " |"
        if table.note:
            yield f"\n{table.note}"
    yield ""


def corrected(tables: Sequence[TaskTable]) -> dict[tuple[str, str, str], float]:
    """Holm's p by task, arm and control; the two controls are two families of claims."""
    found: dict[tuple[str, str, str], float] = {}
    for control in ("to_sum", "to_tuned"):
        names = [
            (table.task, arm.name, getattr(arm, control).p)
            for table in tables
            for arm in table.arms
            if getattr(arm, control) is not None
        ]
        adjusted = holm([p for _, _, p in names])
        for (task, arm, _), p in zip(names, adjusted, strict=True):
            found[task, arm, control] = p
    return found


def percent(log_ratio: float) -> str:
    """A difference of logarithms as a change in percent."""
    return f"{100 * math.expm1(log_ratio):+.3g}" if math.isfinite(log_ratio) else "?"


def _against(
    found: dict[str, dict[int, float]], name: str, control: str
) -> Comparison | None:
    if name == control or control not in found:
        return None
    return compared(found[name], found[control])


def _cells(table: TaskTable, arm: ArmTable, adjusted) -> list[str]:
    e = arm.errors
    numbers = (e.median, e.geometric_mean, e.high, e.worst)
    cells = [
        ARMS[arm.name].title,
        str(e.seeds),
        *(f"{number:.3g}" for number in numbers),
        str(arm.failed or ""),
        ", ".join(f"{name} {value:.3g}" for name, value in arm.parts.items()),
        f"{arm.cost:.2f}" if math.isfinite(arm.cost) else "",
    ]
    for control in ("to_sum", "to_tuned"):
        one = getattr(arm, control)
        p = adjusted.get((table.task, arm.name, control), math.nan)
        cells += ["", ""] if one is None else [_difference(one, p), _p_value(p)]
    return cells


def _difference(one: Comparison, p: float) -> str:
    d = one.difference
    text = f"{percent(d.mean)} % [{percent(d.low)}, {percent(d.high)}]"
    text = f"**{text}**" if d.excludes_zero else text
    text += f", {one.wins}/{d.pairs}"
    return text + (" *" if p < 0.05 else "")


def _p_value(p: float) -> str:
    if math.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _parts(rows: Sequence[Row]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        for part in row.others.split():
            name, _, value = part.partition("=")
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}


def _tuning(rows: Sequence[Row], task: str, tuned: Sequence[Row]) -> str:
    if not tuned:
        return ""
    runs = [
        r for r in rows if r.task == task and (r.arm, r.split) == (STATIC, "tuning")
    ]
    settings = ", ".join(dict.fromkeys(row.setting for row in tuned))
    seconds = sum(row.seconds for row in runs)
    return (
        f"Tuned weights: {settings}; {len(runs)} runs of "
        f"{len({row.setting for row in runs})} settings, {seconds:.0f} s."
    )
