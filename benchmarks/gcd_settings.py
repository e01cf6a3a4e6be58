"""Which settings of EAGC suit category discovery: every one against plain summation.

    python -m benchmarks.gcd_settings --seeds 1
    python -m benchmarks.gcd_settings --seeds 5 --only magnitude progress exploratory
    python -m benchmarks.gcd_settings --seeds 5 --first-seed 5 --only exploratory

Trains examples/gcd_vit.py's model on the digits, from the same backbone, heads, batches
and views, once per setting and seed, and compares the last epoch with plain summation
of the same seed. A run takes half a minute on two cores. Finished runs are kept in a CSV
file: the same command goes on where it was stopped.

The accuracies need the true classes of the unlabeled images. A setting that was chosen
by them is to be confirmed on seeds that had no part in the choice.
"""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from scipy import stats

from eagc_jax import eagc, sum_objectives
from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.loop import TrainConfig, TrainingRun

KNOWN = range(5)  # as in the demo
TABLE_WIDTH = 126  # figures with their spread need more than 80 columns
PLAIN = "plain summation"
COLUMNS = (
    *("setting", "arguments", "epochs", "seed"),
    *("all", "old", "new", "seconds_per_epoch"),
)

# What eagc(2, preset="article", weights=...) is given besides, whatever its defaults are,
# and how each setting differs from it.
MAGNITUDE = {
    "energy": "magnitude",
    "granularity": "channel",
    "scale": "objective",
    "temperature": 1.0,
    "floor": 0.2,
    "smoothing": 0.9,
    "warmup_steps": 100,
}
CHANGES: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "temperature 2": {"temperature": 2.0},
    "temperature 4": {"temperature": 4.0},
    "floor 0.5": {"floor": 0.5},
    "floor 0.8": {"floor": 0.8},
    "tensor": {"granularity": "tensor"},
    "element": {"granularity": "element", "smoothing": 0.0},
    "global scale": {"scale": "global"},
    "one block, global scale": {"granularity": "global", "scale": "global"},
    "progress": {"energy": "progress"},
    "progress, temperature 0.5": {"energy": "progress", "temperature": 0.5},
    "progress, tensor": {"energy": "progress", "granularity": "tensor"},
    "exploratory": {"energy": "exploratory"},
    "exploratory, temperature 0.5": {"energy": "exploratory", "temperature": 0.5},
    "exploratory, temperature 0.25": {"energy": "exploratory", "temperature": 0.25},
    "magnitude, progress": {"energy": {"magnitude": 1.0, "progress": 1.0}},
    "no smoothing": {"smoothing": 0.0},
    "descent guard 0.9": {"descent_guard": 0.9},
    "warm-up 560": {"warmup_steps": 560},  # all of the run
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table."""

    arguments: dict[str, Any]  # as they go into the CSV file
    build: Callable[[tuple[float, float]], optax.GradientTransformation]


def settings() -> dict[str, Setting]:
    found = {PLAIN: Setting({}, sum_objectives)}
    for name, change in CHANGES.items():
        found[name] = gated(MAGNITUDE | change)
    base = found["magnitude"]
    # Not settings of eagc() but controls. Is it the length of the update, or is it the
    # direction of the gate?
    found["plain's length"] = Setting(
        {**base.arguments, "control": "length"},
        lambda weights: with_plain_length(base.build(weights), sum_objectives(weights)),
    )
    found["mirrored"] = Setting(
        {**base.arguments, "control": "mirrored"},
        lambda weights: mirrored(base.build(weights), sum_objectives(weights)),
    )
    return found


def gated(arguments: dict[str, Any]) -> Setting:
    return Setting(
        arguments,
        lambda weights: eagc(2, preset="article", weights=weights, **arguments),
    )


def with_plain_length(gate, plain) -> optax.GradientTransformation:
    """The gated direction at the length, over all parameters, of the plain sum."""

    def update(updates, state, params=None):
        gated, state = gate.update(updates, state, params)
        summed = plain.update(updates, plain.init(params), params)[0]
        ratio = optax.tree.norm(summed) / optax.tree.norm(gated)
        return jax.tree.map(lambda leaf: ratio * leaf, gated), state

    return optax.GradientTransformation(gate.init, update)


def mirrored(gate, plain) -> optax.GradientTransformation:
    """Weights as far on the other side of the prior: 2 w - a in place of a."""

    def update(updates, state, params=None):
        gated, state = gate.update(updates, state, params)
        summed = plain.update(updates, plain.init(params), params)[0]
        return jax.tree.map(lambda a, b: 2 * a - b, summed, gated), state

    return optax.GradientTransformation(gate.init, update)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    known = settings()
    names = options.only or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        console.print(f"unknown settings {unknown}; known are {list(known)}")
        return 2
    # Without plain summation there is nothing to compare with.
    names = [PLAIN, *(name for name in names if name != PLAIN)]
    config = TrainConfig(epochs=options.epochs)
    split = sources.load("digits")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = read(options.output)
    for name in names:
        aggregator = known[name].build(SimGCD().objective_weights)  # compiled once
        for seed in seeds:
            key = run_key(name, known[name], config.epochs, seed)
            if key in rows:
                continue
            row = key_columns(key) | measure(config, split, aggregator, seed)
            rows[key] = row
            append(options.output, row)
            console.print(
                f"{name}, seed {seed}: All {row['all']:.3f}, Old {row['old']:.3f}, "
                f"New {row['new']:.3f}, {row['seconds_per_epoch']:.2f} s per epoch",
                soft_wrap=True,
            )
    summary = summarize(rows, known, names, config.epochs, seeds)
    Console(width=TABLE_WIDTH).print(table(summary, seeds))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=TrainConfig.epochs)
    parser.add_argument(
        "--only", nargs="+", metavar="SETTING", help="these, and plain summation"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gcd_settings.csv"))
    parser.add_argument("--json", type=Path, help="write the table's rows here")
    return parser.parse_args(arguments)


def measure(
    config: TrainConfig,
    split: Records,
    aggregator: optax.GradientTransformation,
    seed: int,
) -> dict[str, float]:
    """One run from its start to its last epoch."""
    run = TrainingRun(
        dataclasses.replace(config, seed=seed), split, load_backbone(), aggregator
    )
    for _ in run:
        pass
    # The median leaves the compilation in the first epoch out.
    seconds = float(np.median(run.history.seconds))
    return run.evaluation.accuracy._asdict() | {"seconds_per_epoch": seconds}


# ---------------------------------------------------------------------------
# Finished runs
# ---------------------------------------------------------------------------

Key = tuple[str, str, int, int]  # the first columns


def run_key(name: str, setting: Setting, epochs: int, seed: int) -> Key:
    # With the arguments in it, a setting that was changed since is run again.
    return name, json.dumps(setting.arguments, sort_keys=True), epochs, seed


def key_columns(key: Key) -> dict[str, Any]:
    return dict(zip(COLUMNS, key, strict=False))


def read(path: Path) -> dict[Key, dict[str, Any]]:
    rows = {}
    if not path.exists():
        return rows
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if any(row.get(column) in (None, "") for column in COLUMNS):
                continue  # cut off while it was written
            key = row["setting"], row["arguments"], int(row["epochs"]), int(row["seed"])
            rows[key] = key_columns(key) | {c: float(row[c]) for c in COLUMNS[4:]}
    return rows


def append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


# ---------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------


def summarize(
    rows: dict[Key, dict[str, Any]],
    known: dict[str, Setting],
    names: list[str],
    epochs: int,
    seeds: range,
) -> list[dict[str, Any]]:
    """Per setting: means, standard deviations, paired differences to plain."""

    def values(name, column):
        keys = (run_key(name, known[name], epochs, seed) for seed in seeds)
        return np.array([rows[key][column] for key in keys])

    summary = []
    for name in names:
        entry: dict[str, Any] = {"setting": name, "arguments": known[name].arguments}
        entry["seeds"] = list(seeds)
        for column in ("all", "old", "new"):
            found = values(name, column)
            entry[column] = float(found.mean())
            entry[f"{column}_sd"] = spread(found)
            if name != PLAIN:
                difference = found - values(PLAIN, column)
                entry[f"{column}_difference"] = float(difference.mean())
                entry[f"{column}_interval"] = half_width(difference)
        entry["seconds_per_epoch"] = float(np.mean(values(name, "seconds_per_epoch")))
        summary.append(entry)
    return summary


def spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def half_width(differences: np.ndarray) -> float | None:
    """Of the two-sided 95 % interval of Student's t for the mean."""
    count = len(differences)
    if count < 2:
        return None
    error = differences.std(ddof=1) / np.sqrt(count)
    return float(stats.t.ppf(0.975, count - 1) * error)


def table(summary: list[dict[str, Any]], seeds: range) -> Table:
    shown = Table(
        title=f"Seeds {seeds[0]} to {seeds[-1]}: mean ± sd; paired difference to plain "
        "summation ± half of its 95 % t interval",
        title_justify="left",
    )
    shown.add_column("setting")
    for column in ("All", "Old", "New", "All - plain", "New - plain", "s/epoch"):
        shown.add_column(column, justify="right", no_wrap=True)
    for entry in summary:
        cells = [
            plus_minus(entry[column], entry[f"{column}_sd"], ".3f")
            for column in ("all", "old", "new")
        ]
        for column in ("all", "new"):
            difference = entry.get(f"{column}_difference")
            cells.append(
                ""
                if difference is None
                else plus_minus(difference, entry[f"{column}_interval"], "+.3f")
            )
        shown.add_row(entry["setting"], *cells, f"{entry['seconds_per_epoch']:.2f}")
    return shown


def plus_minus(value: float, around: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if around is None else f" ± {around:.3f}")


if __name__ == "__main__":
    sys.exit(main())
