"""How far off the number of classes is, by each method, split by split.

    python -m benchmarks.num_classes banking77:FOLDER clinc150:FOLDER grocery:FOLDER \
        omniglot:FOLDER digits [--splits 4]

For each data set and split: half of the classes are known and half of their items labeled
(`sources.pose_half`). Features are those of the default backbone, but of digits the
package's own pretrained one. True classes of unlabeled items are only counted.
"""

import argparse
import sys
import time
from typing import NamedTuple, get_args

import jax
import numpy as np

from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.backbones.checkpoints import DIGITS_BACKBONE
from eagc_jax.gcd.clustering import estimate_num_classes
from eagc_jax.gcd.clustering.num_classes import Method
from eagc_jax.gcd.sources import Records


class Found(NamedTuple):
    """One estimate."""

    data: str
    method: str
    true: int
    number: int
    low: int
    high: int
    seconds: float

    @property
    def held(self) -> bool:
        """Whether the truth is in the interval."""
        return self.low <= self.true <= self.high


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="as eagc discover takes it, with truth")
    parser.add_argument("--splits", type=int, default=4, help="of each")
    methods = get_args(Method)
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    options = parser.parse_args(arguments)
    found = []
    for data in options.data:
        records = sources.open_source(data)
        features = embed(records)
        for seed in range(options.splits):
            posed = sources.pose_half(records, seed=seed)
            for method in options.methods:
                found.append(estimate(posed, features, method, seed))
                print(line(found[-1], seed), flush=True)
    print(*summary(found), sep="\n")
    return 0


def embed(records: Records) -> np.ndarray:
    if records.name == "digits":
        network = backbones.load("vit", str(DIGITS_BACKBONE))
    else:
        network = backbones.load(backbones.default_backbone(records.kind))
    cache = backbones.cache.default_folder()
    return backbones.embed(records, network, cache=cache).features


def estimate(
    records: Records, features: np.ndarray, method: Method, seed: int
) -> Found:
    started = time.perf_counter()
    found = estimate_num_classes(
        features, records.labels, method=method, key=jax.random.key(seed)
    )
    seconds = time.perf_counter() - started
    true = len(records.class_names)
    return Found(records.name, method, true, *found[:3], seconds=seconds)


def line(one: Found, seed: int) -> str:
    return (
        f"{one.data}, split {seed}, {one.method}: {one.number} [{one.low}, {one.high}] "
        f"of {one.true}, {'held' if one.held else 'NOT held'}, {one.seconds:.1f} s"
    )


def summary(found: list[Found]) -> list[str]:
    """By method, each data set and all of them."""
    lines = []
    for method in dict.fromkeys(one.method for one in found):
        mine = [one for one in found if one.method == method]
        for data in (*dict.fromkeys(one.data for one in mine), None):
            some = [one for one in mine if data in (one.data, None)]
            errors = np.array([one.number / one.true - 1 for one in some])
            widths = np.array([one.high / one.low for one in some])
            lines.append(
                f"{method}, {data or 'all'}: error {np.abs(errors).mean():.1%} (mean "
                f"{errors.mean():+.1%}), held in {sum(one.held for one in some)} of "
                f"{len(some)}, high over low {widths.mean():.2f}, "
                f"{np.median([one.seconds for one in some]):.1f} s"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
