"""How fast semi-supervised k-means is beside a plain NumPy implementation.

    python -m benchmarks.clustering [--json FILE] [--rows 5000] [--width 64]

Half of the clusters are known, with half of their rows labeled; ten restarts. One row of
the table until both have converged, by the same rule but from random starts of their own;
one with five iterations per start for both. `numpy_over_ours` is the median ratio of the
two times, round by round, compilation excluded; `inertia_over_numpy` below one means that
ours found the better clusters.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each")
    given = parser.parse_args()
    print(machine())
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
