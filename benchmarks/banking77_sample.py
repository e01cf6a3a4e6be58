"""Makes the sample of BANKING77 that comes along, from the whole training table.

    python -m benchmarks.banking77_sample banking_data/train.csv

The table is the one of github.com/PolyAI-LDN/task-specific-datasets (CC BY 4.0). Of each
intent 40 questions are drawn, or all where there are fewer; every second intent is known,
and half of its questions are labeled, as `sources.pose_half` draws them.
"""

import argparse
import dataclasses
import pathlib

import numpy as np

from eagc_jax import _files
from eagc_jax.gcd import sources
from eagc_jax.gcd.runs.assignment import csv_lines
from eagc_jax.gcd.sources.columns import Columns, open_table
from eagc_jax.gcd.sources.named.banking77_sample import SAMPLE

EACH, SEED = 40, 0


def sampled(records: sources.Records, *, each: int = EACH, seed: int = SEED):
    """At most so many items of each class, in their order, posed as a problem."""
    random = np.random.default_rng(seed)
    truth = records.labels if records.truth is None else records.truth
    drawn = [
        random.permutation(np.flatnonzero(truth == c))[:each]
        for c in range(len(records.class_names))
    ]
    return sources.pose_half(records.select(np.sort(np.concatenate(drawn))), seed=seed)


def table(records: sources.Records) -> str:
    """As CSV, with columns text, label and truth."""
    names = (*records.class_names, "")  # of label -1
    rows = (
        (records.items[row], names[label], names[truth])
        for row, (label, truth) in enumerate(
            zip(records.labels, records.truth, strict=True)
        )
    )
    return "".join(csv_lines(("text", "label", "truth"), rows))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=pathlib.Path, help="train.csv of BANKING77")
    parser.add_argument("--output", type=pathlib.Path, default=SAMPLE)
    options = parser.parse_args(arguments)
    columns = Columns(path=None, label="category", id=None, split=None)
    records = open_table(options.table, columns, require_labels=False)
    posed = sampled(dataclasses.replace(records, name="banking77-sample"))
    _files.write_text(options.output, table(posed))
    print(
        f"wrote {options.output}: {len(posed):,} questions, "
        f"{posed.labeled_mask.sum():,} labeled, {posed.num_known} of "
        f"{posed.num_classes} intents known, {options.output.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
