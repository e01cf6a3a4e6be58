"""Training on features: how far it gets beyond the first answer, arm by arm.

    python -m benchmarks.discovery banking77:FOLDER [clinc150:FOLDER ...] [--seeds 10]

For each data set: features by the default backbone (cached), semi-supervised k-means on
them (the first answer), then SimGCD with a residual adapter and a warm start, twenty
epochs, one run a seed and arm. Differences are paired: a seed has the same heads, batches
and views in all arms. Each finished run is a line of a CSV file; the same command goes on
where it stopped. True classes of unlabeled rows serve for scoring alone.
"""

import argparse
import dataclasses
import pathlib
import sys
import time

import jax
import numpy as np

from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.evaluation.accuracy import Accuracy, cluster_accuracy
from eagc_jax.gcd.runs.comparison import finished, intervals, tables
from eagc_jax.gcd.settings.running import RunSettings, on_features
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.settings import FeatureCoordination, WarmStart

CONTROL = "warm start"
FIRST = "first answer"  # an arm without training: k-means, with the seed's starts
NEIGHBOURS = 10
AGGREGATORS = ("upgrad", "pcgrad", "conflict_free", "nash_mtl", "mgda", "cagrad")
ARTICLE = {"preset": "article", "energy": "exploratory", "temperature": 0.5}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    done = finished.read_runs(options.output)
    for data in options.data:
        records = sources.open_source(data)
        found = embed(records)
        table = backbones.neighbours(found, NEIGHBOURS)
        print(f"{records.name}: k-means on the features {shown(first(records, found))}")
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for arm in options.arms:
                if (records.name, arm, seed) in finished.finished(done):
                    continue
                row = (
                    of_kmeans(records, found, seed)
                    if arm == FIRST
                    else run(records, found, table, arm, seed, options.epochs)
                )
                finished.append_run(options.output, row)
                done.append(row)
    names = {sources.open_source(data).name for data in options.data}
    chosen = [r for r in done if r.dataset in names and r.arm in options.arms]
    summaries = intervals.summarize(chosen, options.control)
    print(tables.to_text(summaries, options.control, ("all", "old", "new")))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="as eagc discover takes it, with truth")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    names = [FIRST, *arms()]
    parser.add_argument("--arms", nargs="+", default=list(arms()), choices=names)
    parser.add_argument("--control", default=CONTROL, choices=names)
    parser.add_argument("--epochs", type=int, default=20)
    path = pathlib.Path("runs/discovery.csv")
    parser.add_argument("--output", type=pathlib.Path, default=path)
    return parser.parse_args(arguments)


def arms(epochs: int = 20) -> dict[str, RunSettings]:
    """By name; all from the same heads, batches and views."""
    control = on_features(epochs=epochs)
    training = control.training

    def with_training(**changes) -> RunSettings:
        changed = dataclasses.replace(training, **changes)
        return dataclasses.replace(control, training=changed)

    def with_aggregator(name: str, **options) -> RunSettings:
        return dataclasses.replace(control, aggregator=Aggregation(name, options))

    return {
        CONTROL: control,
        "cold": with_training(warm_start=None),
        "prototypes": with_training(warm_start=WarmStart(epochs=0)),
        "neighbours": on_features(epochs=epochs, neighbours=NEIGHBOURS),
        **{name: with_aggregator(name) for name in ("eagc", *AGGREGATORS)},
        "eagc, article": with_aggregator("eagc", **ARTICLE),
        "EEP": dataclasses.replace(
            control,
            coordination=FeatureCoordination(aga_weight=0.0, mode="unsupervised_only"),
        ),
    }


def embed(records: Records) -> np.ndarray:
    backbone = backbones.load(backbones.default_backbone(records.kind))
    cache = backbones.cache.default_folder()
    found = backbones.embed(records, backbone, cache=cache)
    print(f"{records.name}: {found.embedded} items embedded in {found.seconds:.1f} s")
    return found.features


def first(records: Records, features: np.ndarray, seed: int = 0) -> Accuracy:
    found = semi_supervised_kmeans(
        jax.random.key(seed),
        features,
        records.num_classes,
        records.labels,
        records.labeled_mask,
    )
    unlabeled = ~records.labeled_mask
    return cluster_accuracy(
        records.truth[unlabeled],
        np.asarray(found.assignments)[unlabeled],
        records.old_mask[unlabeled],
    )


def of_kmeans(
    records: Records, features: np.ndarray, seed: int
) -> finished.FinishedRun:
    started, nan = time.perf_counter(), float("nan")
    accuracy = first(records, features, seed)
    seconds = time.perf_counter() - started  # of its one step
    print(f"{records.name}, seed {seed}, {FIRST}: {shown(accuracy)}, {seconds:.1f} s")
    return finished.FinishedRun(
        records.name, FIRST, seed, *accuracy, gdc=nan, soc=nan, seconds_per_step=seconds
    )


def run(
    records: Records,
    features: np.ndarray,
    table: np.ndarray,
    arm: str,
    seed: int,
    epochs: int,
) -> finished.FinishedRun:
    settings = arms(epochs)[arm]
    training = dataclasses.replace(settings.training, seed=seed)
    settings = dataclasses.replace(settings, training=training)
    started = time.perf_counter()
    one = settings.start(records, features=features, neighbours=table, name=arm)
    for _ in one:
        pass
    accuracy = one.evaluation.accuracy
    seconds = time.perf_counter() - started
    print(f"{records.name}, seed {seed}, {arm}: {shown(accuracy)}, {seconds:.1f} s")
    return finished.FinishedRun(
        records.name,
        arm,
        seed,
        *accuracy,
        gdc=float("nan"),  # no step measures the raw gradients here
        soc=one.evaluation.subspace_overlap,
        seconds_per_step=float(np.median(one.history.step_seconds)),
    )


def shown(accuracy: Accuracy) -> str:
    return f"All {accuracy.all:.3f}, Old {accuracy.old:.3f}, New {accuracy.new:.3f}"


if __name__ == "__main__":
    sys.exit(main())
