"""How fast semi-supervised k-means is beside NumPy, and beside scikit-learn's k-means.

    python -m benchmarks.clustering [--json FILE] [--rows 5000] [--width 64]
    python -m benchmarks.clustering --iteration FILE --rows 1000000 --width 384 \
        --clusters 1000 [--rounds 3]

Half of the clusters are known, with half of their rows labeled; ten restarts. One row of
the table until both have converged, by the same rule but from random starts of their own;
one with five iterations per start for both. `numpy_over_ours` is the median ratio of the
two times, round by round, compilation excluded; `inertia_over_numpy` below one means that
ours found the better clusters.

With `--iteration FILE`, one iteration on rows in a memory-mapped file (.npy, float32; it
is made if it isn't there) beside one of Lloyd's iterations of scikit-learn's `KMeans`,
from the same centres and on the same cores: `seconds` and `sklearn` are medians over the
rounds, `ours_over_sklearn` is that of the rounds' ratios, and `processor_ratio` that of
processor time, which other programs disturb less. Each side is a process of its own,
which takes the difference between a run of one and one of three iterations. `memory` is
the largest resident memory of ours, mapped pages of the file included, over the size of
the file. `seeding` is the time of seeding when half of the clusters are known.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax.gcd.clustering import semi_supervised_kmeans

RESTARTS = 10


def make_problem(rows: int, width: int, clusters: int, seed: int = 0):
    random = np.random.default_rng(seed)
    classes = random.integers(0, clusters, rows)
    directions = random.normal(size=(clusters, width))
    # Apart enough for a result, near enough for some iterations.
    features = 0.4 * directions[classes] + random.normal(size=(rows, width))
    labeled = (classes < clusters // 2) & (random.random(rows) < 0.5)
    return features.astype(np.float32), np.where(labeled, classes, -1), labeled


def numpy_restart(random, unit, labels, labeled, clusters, max_iterations, tolerance):
    """Known centres at class means, k-means++ for the rest, then Lloyd's iterations."""
    known = labels[labeled].max() + 1
    centres = [unit[labels == k].mean(axis=0) for k in range(known)]
    unlabeled = unit[~labeled]
    closest = np.min([((unlabeled - c) ** 2).sum(1) for c in centres], axis=0)
    while len(centres) < clusters:
        centres.append(
            unlabeled[random.choice(len(closest), p=closest / closest.sum())]
        )
        closest = np.minimum(closest, ((unlabeled - centres[-1]) ** 2).sum(1))
    centres = np.stack(centres)
    for _ in range(max_iterations):
        distances = 2 - 2 * unit @ centres.T + (centres**2).sum(1) - 1
        assigned = np.where(labeled, labels, distances.argmin(axis=1))
        moved = centres.copy()
        for k in range(clusters):
            if (assigned == k).any():
                moved[k] = unit[assigned == k].mean(axis=0)
        shift = np.linalg.norm(moved - centres, axis=1).sum()
        centres = moved
        if shift**2 < tolerance:
            break
    inertia = ((unit - centres[assigned]) ** 2).sum()
    return assigned, inertia


def numpy_kmeans(features, labels, labeled, clusters, max_iterations, tolerance):
    random = np.random.default_rng(0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    results = [
        numpy_restart(
            random, unit, labels, labeled, clusters, max_iterations, tolerance
        )
        for _ in range(RESTARTS)
    ]
    return min(results, key=lambda result: result[1])


def measure(
    rows: int, width: int, clusters: int, limit: int | None, rounds: int
) -> dict[str, Any]:
    """`limit`: exactly so many iterations; None: until both have converged."""
    features, labels, labeled = make_problem(rows, width, clusters)
    on_device = jax.device_put((features, labels, labeled))
    iterations, tolerance = (limit, 0.0) if limit else (200, 1e-4)

    def ours():
        features, labels, labeled = on_device
        return semi_supervised_kmeans(
            jax.random.key(0),
            features,
            clusters,
            labels,
            labeled,
            restarts=RESTARTS,
            max_iterations=iterations,
            tolerance=tolerance,
        )

    def numpys():
        return numpy_kmeans(features, labels, labeled, clusters, iterations, tolerance)

    seconds = interleaved_seconds({"ours": ours, "numpy": numpys}, rounds)
    return {
        "rows": rows,
        "width": width,
        "clusters": clusters,
        "iterations": str(limit) if limit else "converged",
        "seconds": float(np.median(seconds["ours"])),
        "numpy_over_ours": float(np.median(seconds["numpy"] / seconds["ours"])),
        "inertia_over_numpy": float(ours().inertia / numpys()[1]),
    }


def make_file(path: Path, rows: int, width: int, clusters: int) -> None:
    """Unit rows around directions, clusters of unequal size; whole or not at all."""
    if path.exists():
        found = np.load(path, mmap_mode="r").shape
        if found != (rows, width):
            raise SystemExit(
                f"{path} has shape {found}, not {(rows, width)}: remove it"
            )
        return
    random = np.random.default_rng(0)
    directions = random.standard_normal((clusters, width), np.float32)
    shares = random.dirichlet(np.full(clusters, 2.0))
    temporary = path.with_name(path.name + ".part.npy")
    file = np.lib.format.open_memmap(temporary, "w+", np.float32, (rows, width))
    for start in range(0, rows, 50_000):
        number = min(50_000, rows - start)
        classes = random.choice(clusters, number, p=shares)
        part = random.standard_normal((number, width), np.float32)
        part += 0.5 * directions[classes]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        file[start : start + number] = part
    file.flush()
    os.replace(temporary, path)


def timed(run) -> tuple[float, float, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - processor, result


def one_iteration(run) -> dict[str, float]:
    """Of `run(iterations) -> inertia`: what two more of them take, halved."""
    run(1)  # compiled, and the file is in memory
    short, long = timed(lambda: run(1)), timed(lambda: run(3))
    return {
        "seconds": (long[0] - short[0]) / 2,
        "processor": (long[1] - short[1]) / 2,
        "inertia": float(long[2]),
    }


def ours_on_file(path: Path, clusters: int) -> dict[str, float]:
    """The first rows are labeled, one a class: they are the centres to start from."""
    features = np.load(path, mmap_mode="r")
    labels = np.full(len(features), -1)
    labels[:clusters] = np.arange(clusters)

    def run(iterations, labels=labels):
        found = semi_supervised_kmeans(
            jax.random.key(0),
            features,
            clusters,
            labels,
            labels >= 0,
            restarts=1,
            max_iterations=iterations,
            tolerance=0,
        )
        return jax.block_until_ready(found).inertia

    result = one_iteration(run)
    half = np.where(labels < clusters // 2, labels, -1)
    seeded, given = timed(lambda: run(1, half)), timed(lambda: run(1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result | {
        "seeding": seeded[0] - given[0],
        "memory": peak / features.nbytes,
    }


def sklearn_on_file(path: Path, clusters: int) -> dict[str, float]:
    from sklearn.cluster import KMeans

    features = np.load(path)

    def run(iterations):
        found = KMeans(
            clusters,
            init=features[:clusters],
            n_init=1,
            max_iter=iterations,
            tol=0,
            copy_x=False,
            algorithm="lloyd",
        )
        return found.fit(features).inertia_

    return one_iteration(run)


def in_process(side: str, given) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.clustering", "--side", side]
    command += ["--iteration", str(given.iteration), "--clusters", str(given.clusters)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_iteration(given) -> dict[str, Any]:
    rounds = [
        (in_process("ours", given), in_process("sklearn", given))
        for _ in range(given.rounds)
    ]

    def median(take):
        return float(np.median([take(ours, sklearn) for ours, sklearn in rounds]))

    return {
        "rows": given.rows,
        "width": given.width,
        "clusters": given.clusters,
        "seconds": median(lambda ours, _: ours["seconds"]),
        "sklearn": median(lambda _, sklearn: sklearn["seconds"]),
        "ours_over_sklearn": median(lambda a, b: a["seconds"] / b["seconds"]),
        "processor_ratio": median(lambda a, b: a["processor"] / b["processor"]),
        "inertia_over_sklearn": median(lambda a, b: a["inertia"] / b["inertia"]),
        "memory": max(ours["memory"] for ours, _ in rounds),
        "seeding": median(lambda ours, _: ours["seeding"]),
    }


def print_iteration(given) -> None:
    make_file(given.iteration, given.rows, given.width, given.clusters)
    rows = [measure_iteration(given)]
    formats = dict.fromkeys(("rows", "width", "clusters"), "d")
    formats |= dict.fromkeys(("seconds", "sklearn", "seeding"), ".2f")
    formats |= dict.fromkeys(("ours_over_sklearn", "processor_ratio", "memory"), ".2f")
    formats["inertia_over_sklearn"] = ".5f"
    print_table(rows, formats)
    write_json(given.json, rows)


SIDES = {"ours": ours_on_file, "sklearn": sklearn_on_file}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each")
    parser.add_argument("--iteration", type=Path, metavar="FILE")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side](given.iteration, given.clusters)))
        return
    print(machine())
    if given.iteration:
        print_iteration(given)
        return
    rows = [
        measure(given.rows, given.width, given.clusters, limit, given.rounds)
        for limit in (None, 5)
    ]
    formats = {
        "rows": "d",
        "width": "d",
        "clusters": "d",
        "iterations": "s",
        "seconds": ".3f",
        "numpy_over_ours": ".2f",
        "inertia_over_numpy": ".4f",
    }
    print_table(rows, formats)
    write_json(given.json, rows)


if __name__ == "__main__":
    main()
