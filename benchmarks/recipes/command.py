"""Is the probe right about the recipes? Probes three, trains them, and compares.

    python -m benchmarks.recipes
    python -m benchmarks.recipes --recipes multi_task --seeds 6 --json recipes.json

A probe sees the first 2 % of a recipe's steps, as a user's does. Then the recipe is
trained to its end with the plain sum, with what it compares the sum with itself (UPGrad
is always among it) and with what the probe names, all from the same starts on the same
batches. Differences are of the error's logarithm, paired by seed, with Student's 95 %
interval; p is Holm's, over the methods of a recipe. A probe that says that a method is
worth a run is right where one of those it names is surely better than the sum (Holm's p
over them below 0.05), one that says that the sum will do where none that was trained is:
the rules of `benchmarks.evidence`.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence

from benchmarks.evidence import foretold, probing, rules, training
from benchmarks.evidence.arms import ARMS, SUM, Arm
from benchmarks.evidence.probing import Probed
from benchmarks.evidence.rows import Row
from benchmarks.evidence.statistics import compared, errors, holm, spread
from benchmarks.evidence.task import Task
from benchmarks.recipes.tasks import BUILDERS
from benchmarks.timing import machine, print_table, write_json
from eagc_jax import aggregators
from eagc_jax.gcd.runs.comparison.intervals import Interval

SPLIT = "dev"  # of the rows: nothing is chosen by them
# What a recipe compares with the plain sum in its own claim.
CLAIMED = {
    "multi_task": ("upgrad", "nash_mtl"),
    "physics_informed": ("upgrad", "nash_mtl"),
    "language_model": ("upgrad",),
}
# The arms of what a probe's verdict names, but for weights that are to be tuned; what
# "noise" names, larger batches first, is none.
RECOMMENDED = {
    "sum": (),
    "weights": ("eagc", "conflict_free"),
    "preference": ("chebyshev",),
    "noise": (),
    "momentum": ("eagc-step",),
    "optimizer-aware": ("eagc-metric", "upgrad", "nash_mtl"),
    "aggregator": ("eagc", "upgrad", "nash_mtl", "conflict_free"),
}


def _chebyshev(task: Task, steps: int) -> rules.Rule:
    return rules.of_losses(task, steps, aggregators.chebyshev(task.number))


METHODS = {**ARMS, "chebyshev": Arm("chebyshev", "Chebyshev", _chebyshev)}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    rows = []
    for name in options.recipes:
        task = BUILDERS[name](options.steps)
        rows += judged(task, range(options.seeds), options.probes)
    print(machine())
    print_table(rows, dict.fromkeys(rows[0], ""))
    write_json(options.json, rows)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipes", nargs="+", choices=BUILDERS, default=[*BUILDERS])
    parser.add_argument("--seeds", type=int, default=10, help="pairs of runs")
    parser.add_argument("--probes", type=int, default=2, help="of the first seeds")
    parser.add_argument("--steps", type=int, help="of a run; the recipe's own")
    parser.add_argument("--json", type=pathlib.Path, help="also write the table here")
    options = parser.parse_args(arguments)
    if not options.seeds >= max(2, options.probes) >= options.probes >= 1:
        parser.error(
            "--seeds must be at least 2, and --probes from 1 to that, got "
            f"{options.seeds} and {options.probes}"
        )
    return options


def judged(task: Task, seeds: Sequence[int], number: int) -> list[dict[str, str]]:
    """Probes the first seeds, trains all, compares: a line of the table a method."""
    probes = [probing.probe(task, seed) for seed in seeds[:number]]
    names = methods(task.name, probes)
    print(f"{task.name}: probed; to train: {', '.join(names)}", file=sys.stderr)
    rows = [row for name in (SUM, *names) for row in trained(task, name, seeds)]
    return table(probes, rows, names)


def methods(recipe: str, probes: Sequence[Probed]) -> list[str]:
    """What the recipe compares itself, and what the probes name."""
    return list(dict.fromkeys((*CLAIMED[recipe], *named(probes))))


def named(probes: Sequence[Probed]) -> tuple[str, ...]:
    """Methods of the kind that most of the probes name that say what most say."""
    agree = [p.kind for p in probes if bool(p.worth_a_run) == foretold.says(probes)]
    return RECOMMENDED[max(dict.fromkeys(agree), key=agree.count)]


def trained(task: Task, name: str, seeds: Sequence[int]) -> list[Row]:
    """All seeds of a method side by side, to the recipe's last step."""
    found = training.train(training.Runs(task, METHODS[name].build), seeds)
    kind = (task.family, task.name, name)
    rest = ("", task.steps, found.seconds / len(seeds), math.nan)
    values = found.measures[task.metric].tolist()
    return [
        Row(*kind, seed, SPLIT, "steps", "", task.metric, value, *rest)
        for seed, value in zip(seeds, values, strict=True)
    ]


def table(
    probes: Sequence[Probed], rows: Sequence[Row], names: Sequence[str]
) -> list[dict[str, str]]:
    """A line a method; what the probe says, and whether it is right, in the first."""
    tried = named(probes)
    said = foretold.says(probes)
    (outcome,) = foretold.outcomes(rows, SPLIT, tried if said else names).values()
    of = {name: errors([r for r in rows if r.arm == name]) for name in (SUM, *names)}
    found = {name: compared(of[name], of[SUM]) for name in names}
    p_values = holm([one.p for one in found.values()])
    lines = [
        {
            "recipe": "",
            "the probe says": "",
            "and is": "",
            "method": METHODS[name].title,
            "named": "yes" if name in tried else "no",
            "error, sum": f"{spread([*of[SUM].values()]).geometric_mean:.3g}",
            "error, method": f"{spread([*of[name].values()]).geometric_mean:.3g}",
            "difference": shown(found[name].difference),
            "better in": f"{found[name].wins} of {found[name].difference.pairs}",
            "p": f"{p:.3f}",
        }
        for name, p in zip(names, p_values, strict=True)
    ]
    right = "right" if said == outcome.better else "wrong"
    words = foretold.words(probes)
    lines[0] |= {"recipe": probes[0].task, "the probe says": words, "and is": right}
    return lines


def shown(difference: Interval) -> str:
    """An interval of log errors, in per cent."""
    mean, low, high = (100 * math.expm1(x) for x in difference[:3])
    return f"{mean:+.3g} % [{low:+.3g}, {high:+.3g}]"
