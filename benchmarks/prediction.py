"""Prediction: how fast, how well calibrated, and what it makes of items of no category.

    python -m benchmarks.prediction --speed [--rows 1000000] [--classes 150]
    python -m benchmarks.prediction --calibration banking77:FOLDER [--seeds 3] [--train]
    python -m benchmarks.prediction --outside CLINC150.json [--train]

`--speed`: `eagc predict` of a memory-mapped .npy of float32 rows to CSV, with so many
categories, 2,500 labeled examples and a trained adapter, in a process of its own: wall
clock and processor time of the whole command, and the largest memory, less the pages of
the mapped file. Rows are random.

`--calibration`: discovers, and scores probabilities of unlabeled items: the expected
calibration error in 15 bins, where an item is right if its cluster is matched with its
class (as accuracy is), before (softmax of distances, temperature fitted to labeled items)
and after; and whether more probable items are right more often (area under the curve).

`--outside`: discovers in CLINC150's training part, predicts its test part and the
requests that are out of scope: the rate of alarms on either, the area under the curve,
and beside it that of the distance to the nearest labeled example.

With `--train`, after training by an adapter as `eagc discover` does, else of the first
answer. Features are those of the default backbone, cached.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score

from eagc_jax.gcd import (
    ClusteringSettings,
    DiscoverSettings,
    Discovery,
    backbones,
    discover,
    sources,
)
from eagc_jax.gcd.methods import SimGCD, Task
from eagc_jax.gcd.prediction import BackboneOf, Calibration, Predictor
from eagc_jax.gcd.prediction.trained import Trained
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.sources.strings import RowNumbers, Strings
from eagc_jax.gcd.sources.texts import Texts

WIDTH, EXAMPLES, BINS = 384, 2500, 15


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.speed:
        speed(options.rows, options.classes)
    if options.calibration:
        records = [sources.open_source(options.calibration)]
        records += [posed(records[0], seed) for seed in range(1, options.seeds)]
        for seed, one in enumerate(records):
            calibrated(one, seed, options.train)
    if options.outside:
        outside(options.outside, options.train)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--calibration", metavar="DATA", help="with true classes")
    parser.add_argument("--seeds", type=int, default=1, help="splits")
    parser.add_argument("--outside", metavar="FILE", help="CLINC150's data_full.json")
    parser.add_argument("--train", action="store_true")
    return parser.parse_args(arguments)


def speed(rows: int, classes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        predictor(random, classes).save(folder)
        path = pathlib.Path(folder, "new.npy")
        shape = (rows, WIDTH)
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for start in range(0, rows, 2**14):
            size = min(2**14, rows - start)
            array[start : start + size] = random.normal(size=(size, WIDTH))
        array.flush()
        del array
        out = pathlib.Path(folder, "found.csv")
        command = [sys.executable, "-m", "eagc_jax.gcd.cli", "predict"]
        command += [folder, str(path), "--to", str(out)]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{rows:,} rows of {WIDTH}, {classes} categories, {EXAMPLES:,} examples, "
            f"trained adapter, to {out.stat().st_size / 1e6:.0f} MB of CSV: "
            f"{seconds:.1f} s on {os.cpu_count()} cores, "
            f"{used.ru_utime + used.ru_stime:.1f} s of processor time, at most "
            f"{used.ru_maxrss / 1e6:.2f} GB of memory with the file's mapped pages"
        )


def predictor(random: np.random.Generator, classes: int) -> Predictor:
    """Of random numbers, with all that a trained run has."""
    method = SimGCD(head_hidden=384, head_projection=128)
    task = Task(10_000, classes // 2, classes, WIDTH)
    columns = np.arange(classes, dtype=np.int32)
    model = Trained(method, task, True, True, None, {}, (), columns)
    tensors = {
        name: random.normal(size=one.shape).astype(np.float32) / WIDTH**0.5
        for name, one in backbones.weights.parameters(model.abstract()).items()
    }
    centres = random.normal(size=(classes, WIDTH)).astype(np.float32) / WIDTH**0.5
    return Predictor(
        tuple(f"category {number}" for number in range(classes)),
        np.arange(classes) < classes // 2,
        centres,
        centres,
        Calibration(0.1, by_distance=False, threshold=1.9),
        random.normal(size=(EXAMPLES, WIDTH)).astype(np.float16) / np.float16(20),
        tuple(f"example {number}" for number in range(EXAMPLES)),
        BackboneOf("embedding", WIDTH, "embeddings", f"embeddings-{WIDTH}"),
        1.0,
        dataclasses.replace(model, tensors=tensors),
    )


def posed(records: Records, seed: int) -> Records:
    names = records.class_names
    known = sources.fully_labeled(
        records.name, records.kind, records.items, records.ids, records.truth, names
    )
    return sources.pose_half(known, seed=seed)


def found_in(records: Records, train: bool, seed: int = 0) -> Discovery:
    number = records.num_classes
    settings = DiscoverSettings(
        clustering=ClusteringSettings(number),
        quick=not train,
        rehearse=False,
        seed=seed,
    )
    return discover(records, settings, cache=backbones.cache.default_folder())


def calibrated(records: Records, seed: int, train: bool) -> None:
    found = found_in(records, train, seed)
    unlabeled = ~records.labeled_mask
    clusters = found.assignment.clusters[unlabeled]
    right = matched(clusters, records.truth[unlabeled])
    before = found.assignment.probability[unlabeled]
    features = found.features if not found.predictor.blocks else found.adapted
    after = found.predictor.predict(features).probability[unlabeled]
    what = "trained" if train else "first answer"
    print(
        f"{records.name}, split {seed}, {what}: {right.mean():.3f} right; mean "
        f"probability {before.mean():.3f} before, {after.mean():.3f} after; error "
        f"{error(before, right):.3f} before, {error(after, right):.3f} after; area "
        f"{roc_auc_score(right, before):.3f} before, {roc_auc_score(right, after):.3f} "
        f"after ({found.predictor.calibration.source})"
    )


def matched(clusters: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) bool: the cluster is matched with the class."""
    size = max(clusters.max(), truth.max()) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (clusters, truth), 1)
    _, classes = linear_sum_assignment(counts, maximize=True)
    return classes[clusters] == truth


def error(probability: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    return sum(
        np.mean(bins == one)
        * abs(probability[bins == one].mean() - right[bins == one].mean())
        for one in np.unique(bins)
    )


def outside(path: str, train: bool) -> None:
    records = sources.open_source(f"clinc150:{path}")
    found = found_in(records, train)
    parts = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    inside, other = (
        found.predictor.predict(embedded([text for text, _ in parts[part]]))
        for part in ("test", "oos_test")
    )
    rate = found.predictor.calibration.false_alarms
    y = np.repeat([0, 1], [len(inside), len(other)])
    distances = np.concatenate([inside.distance, other.distance])
    similar = np.concatenate([inside.similarity, other.similarity])
    what = "trained" if train else "first answer"
    print(
        f"clinc150, {what}: alarms at {inside.unlike.mean():.4f} of {len(inside):,} test "
        f"requests ({rate} is asked for), at {other.unlike.mean():.3f} of "
        f"{len(other):,} out of scope; area {roc_auc_score(y, distances):.3f} by the "
        f"nearest centre, {roc_auc_score(y, -similar):.3f} by the nearest labeled item"
    )


def embedded(texts: list[str]) -> np.ndarray:
    none = np.full(len(texts), -1, np.int32)
    records = Records(
        "requests",
        "text",
        Texts(Strings.of(texts)),
        RowNumbers(len(texts)),
        none,
        (),
        0,
    )
    network = backbones.load(backbones.default_backbone("text"))
    cache = backbones.cache.default_folder()
    return backbones.embed(records, network, cache=cache).features


if __name__ == "__main__":
    sys.exit(main())
