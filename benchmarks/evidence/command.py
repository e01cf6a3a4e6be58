"""Where does coordination help? Trains every task with every arm, and writes a page.

    python -m benchmarks.evidence --family physics --arms core --seeds 10
    python -m benchmarks.evidence --family physics --tasks burgers --arms sum upgrad
    python -m benchmarks.evidence --family physics --arms sum upgrad --split fresh
    python -m benchmarks.evidence --family physics --probe --seeds 3
    python -m benchmarks.evidence --report --out docs/evidence.csv
    python -m benchmarks.evidence --compare eagc sum --out docs/evidence.csv

All seeds of an arm are trained side by side, in one compiled program. Each finished run
is a line of a CSV file, and the same command goes on where it stopped. Choices are made
on the seeds of `--split dev`; what was chosen is confirmed on `fresh` ones. The arm
`tuned` searches static weights on seeds of its own first.

`--budget time` gives each arm as many steps as fit into the time of the plain sum's:
the cost of a step is measured, and the schedule of learning rates is shortened with it.
`--probe` trains nothing: it probes the first 2 % of every task's steps, and the page
says beside the trainings what the probes foretold.
Images and sentences beyond those that come along are named as
`--data fashion-mnist=FOLDER`; a task whose data isn't there is left out by name.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.evidence import probing, statistics, training, tuning
from benchmarks.evidence import rows as table
from benchmarks.evidence.arms import ARMS, STATIC, SUM, TUNED, Arm, chosen
from benchmarks.evidence.rows import FIRST_SEED, Row
from benchmarks.evidence.task import FAMILIES, Given, Task, builders
from benchmarks.timing import write_json

TUNING_SEEDS = 2


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    done = table.read(options.out)
    if options.report:
        from benchmarks.evidence import report

        return report.write(done, options.out, options.page)
    if options.compare:
        return compare(done, *options.compare)
    if not options.family:
        print("name a family with --family, or --report, or --compare", file=sys.stderr)
        return 2
    given = Given(options.data, options.small)
    try:
        for family in options.family:
            arms = chosen(options.arms, family)
            for task in tasks(family, options.tasks, given):
                if options.probe:
                    probe(task, options)
                else:
                    Bench(task, done, options).run(arms)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(options.json, [row._asdict() for row in done])
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", nargs="+", choices=FAMILIES)
    parser.add_argument("--tasks", nargs="+", help="of the family; all by default")
    parser.add_argument(
        "--arms", nargs="+", default=["core"], help=f"core, all or of {', '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="of the split")
    parser.add_argument("--split", choices=("dev", "fresh"), default="dev")
    parser.add_argument("--budget", choices=("steps", "time"), default="steps")
    parser.add_argument("--steps", type=int, help="of the plain sum; the task's own")
    parser.add_argument("--tuning-seeds", type=int, default=TUNING_SEEDS)
    parser.add_argument(
        "--full-grid", action="store_true", help="tune all ratios together first"
    )
    parser.add_argument(
        "--refine", type=int, default=0, help="tune between powers of ten, so often"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a data set lies: mnist, fashion-mnist, clinc150, banking77",
    )
    path = pathlib.Path
    parser.add_argument("--out", type=path, default=path("runs/evidence.csv"))
    parser.add_argument("--json", type=path, help="also write all rows to this file")
    parser.add_argument("--report", action="store_true", help="write the page alone")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("ARM", "CONTROL"),
        help="print one arm against another, on the seeds of the table that both have",
    )
    parser.add_argument("--page", type=path, help="beside the table by default")
    parser.add_argument("--probe", action="store_true", help="probe, don't train")
    parser.add_argument("--small", action="store_true", help="the sizes of a test")
    options = parser.parse_args(arguments)
    pairs = [given.partition("=") for given in options.data]
    for name, _, place in pairs:
        if not place:
            parser.error(f"--data must be NAME=PATH, got {name}")
    options.data = {name: path(place) for name, _, place in pairs}
    options.page = options.page or options.out.with_suffix(".md")
    return options


def compare(done: Sequence[Row], arm: str, control: str) -> int:
    """Prints one arm against another; returns the exit code."""
    from benchmarks.evidence import pairs

    try:
        print("\n".join(pairs.lines(done, arm, control)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def probe(task: Task, options: argparse.Namespace) -> None:
    """Probes the seeds that are not in the table of probes yet."""
    path = probing.beside(options.out)
    found = probing.read(path)
    known = {(one.family, one.task, one.seed) for one in found}
    first = FIRST_SEED[options.split] + options.first_seed
    for seed in range(first, first + options.seeds):
        if (task.family, task.name, seed) not in known:
            found.append(probing.probe(task, seed))
            probing.write(path, found)
            print(
                f"{task.name}, probe: {' '.join(map(str, found[-1][4:]))}", flush=True
            )


def tasks(family: str, names: Sequence[str] | None, given: Given) -> list[Task]:
    """A family's tasks; those that lack something are left out with a message.

    Raises:
      ValueError: there is no task of one of the names.
    """
    known = builders(family)
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"tasks of {family} are {', '.join(known) or 'none yet'}; got {name!r}"
            )
    found = []
    for name in names or known:
        try:
            found.append(known[name](given))
        except (FileNotFoundError, ImportError) as error:
            print(f"{family}, {name}: left out. {error}")
    return found


class Bench:
    """One task, and the rows that are there."""

    def __init__(self, task: Task, rows: list[Row], options: argparse.Namespace):
        self.task, self.rows, self.options = task, rows, options
        self.steps = options.steps or task.steps
        self._compiled: dict[tuple, training.Runs] = {}
        for row in rows:
            if self._is_mine(row) and row.budget == "steps" and row.steps != self.steps:
                raise ValueError(
                    f"{options.out} has runs of {task.name} with {row.steps} steps, now "
                    f"asked for {self.steps}; choose another file with --out"
                )

    def run(self, arms: Sequence[Arm]) -> None:
        """All arms; what is in the table already is not done again."""
        for arm in arms:
            weights = self.tuned() if arm.name == TUNED else None
            self.seeds_of(arm, weights)

    def seeds_of(self, arm: Arm, weights: tuning.Weights | None) -> None:
        """The seeds of one arm that are missing, side by side."""
        options = self.options
        first = FIRST_SEED[options.split] + options.first_seed
        setting = table.shown(weights) if weights else ""
        seeds = [
            seed
            for seed in range(first, first + options.seeds)
            if self._key(arm.name, seed, options.split, setting) not in self._done()
        ]
        if not seeds:
            return
        cost, steps = np.nan, self.steps
        if self._budget(arm.name, options.split) == "time":
            cost = self.cost(arm, seeds)
            steps = max(round(self.steps / cost), 1)
        self._train(arm, seeds, options.split, weights, steps, cost)

    def tuned(self) -> tuning.Weights:
        """The best static weights on the tuning seeds, at the sum's steps."""
        first, number = FIRST_SEED["tuning"], self.options.tuning_seeds
        seeds = range(first, first + number)
        static = ARMS[SUM]._replace(name=STATIC)

        def evaluate(settings: Sequence[tuning.Weights]):
            runs = [(w, seed) for w in settings for seed in seeds]
            missing = [
                (w, seed)
                for w, seed in runs
                if self._key(STATIC, seed, "tuning", table.shown(w)) not in self._done()
            ]
            # As wide as an arm's seeds, so that the program that is compiled serves both.
            for at in range(0, len(missing), self.options.seeds):
                part = missing[at : at + self.options.seeds]
                self._train_settings(static, part)
            return {w: self._score(table.shown(w), seeds) for w in settings}

        found = tuning.search(
            self.task.number, evaluate, self.options.full_grid, self.options.refine
        )
        self._say(TUNED, f"weights {table.shown(found.weights)}")
        return found.weights

    def cost(self, arm: Arm, seeds: Sequence[int]) -> float:
        """Of a step, over the sum's; measured once, then from the table."""
        for row in self.rows:
            if self._is_mine(row) and row.arm == arm.name and np.isfinite(row.cost):
                return row.cost
        return training.relative_cost(
            self._runs(arm, self.steps), self._runs(ARMS[SUM], self.steps), seeds
        )

    def _train(self, arm, seeds, split, weights, steps, cost) -> None:
        repeated = None if weights is None else np.tile(weights, (len(seeds), 1))
        found = training.train(
            self._runs(arm, steps),
            seeds,
            repeated,
            lambda line: self._say(arm.name, line),
        )
        setting = table.shown(weights) if weights else ""
        self._keep(arm, list(seeds), [setting] * len(seeds), split, steps, cost, found)

    def _train_settings(self, static: Arm, part) -> None:
        seeds = [seed for _, seed in part]
        found = training.train(
            self._runs(static, self.steps),
            seeds,
            np.asarray([w for w, _ in part]),
            lambda line: self._say(STATIC, line),
        )
        settings = [table.shown(w) for w, _ in part]
        self._keep(static, seeds, settings, "tuning", self.steps, np.nan, found)

    def _keep(self, arm, seeds, settings, split, steps, cost, found) -> None:
        values = found.measures[self.task.metric]
        others = [name for name in found.measures if name != self.task.metric]
        new = [
            Row(
                *(*self._name(), arm.name, seed, split),
                self._budget(arm.name, split),
                settings[i],
                self.task.metric,
                float(f"{values[i]:.6g}"),
                " ".join(f"{name}={found.measures[name][i]:.5g}" for name in others),
                steps,
                round(found.seconds / len(seeds), 3),
                round(float(cost), 3),
            )
            for i, seed in enumerate(seeds)
        ]
        table.append(self.options.out, new)
        self.rows += new
        seen = statistics.spread(list(statistics.errors(new).values()))
        self._say(
            arm.name,
            f"{self.task.metric} {seen.geometric_mean:.4g} (worst {seen.worst:.4g}), "
            f"{len(new)} runs, {found.seconds:.0f} s",
        )

    def _score(self, setting: str, seeds: range) -> float:
        chosen_rows = [
            row
            for row in self.rows
            if self._is_mine(row)
            and (row.split, row.setting) == ("tuning", setting)
            and row.seed in seeds
        ]
        values = statistics.errors(chosen_rows).values()
        return float(np.log(list(values)).mean())

    def _runs(self, arm: Arm, steps: int) -> training.Runs:
        key = (arm.build, steps)
        if key not in self._compiled:
            self._compiled[key] = training.Runs(self.task, arm.build, steps)
        return self._compiled[key]

    def _key(self, arm: str, seed: int, split: str, setting: str) -> tuple[str, ...]:
        budget = self._budget(arm, split)
        return (*self._name(), arm, str(seed), split, budget, setting)

    def _budget(self, arm: str, split: str) -> str:
        """Sums cost what the sum costs: their runs count for both budgets."""
        same = split == "tuning" or arm in (SUM, TUNED, STATIC)
        return "steps" if same else self.options.budget

    def _done(self) -> set[tuple[str, ...]]:
        return table.done(self.rows)

    def _name(self) -> tuple[str, str]:
        return self.task.family, self.task.name

    def _is_mine(self, row: Row) -> bool:
        return (row.family, row.task) == self._name()

    def _say(self, arm: str, line: str) -> None:
        print(f"{self.task.name}, {arm}: {line}", flush=True)
