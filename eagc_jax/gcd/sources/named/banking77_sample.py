"""A sample of BANKING77 that comes along."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from eagc_jax.gcd.sources.columns import Columns, open_table
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

SAMPLE = pathlib.Path(__file__).parent / "data" / "banking77_sample.csv"


@register("banking77-sample")
def banking77_sample(root: str | os.PathLike[str] | None = None) -> Records:
    """3,075 questions to a bank with 77 intents, to try things out with.

    At most 40 questions of each intent, out of the training table of BANKING77. Every
    second intent is known, and half of its questions are labeled; the table has columns
    text, label (empty where there is none) and truth. It is published under CC BY 4.0,
    see the licence beside it; `python -m benchmarks.banking77_sample` made it.

    Args:
      root: not needed; another table with these columns.

    Returns:
      Records of texts in the table's order; ids are row numbers.

    Examples:
      >>> records = banking77_sample()
      >>> len(records), records.num_known, records.items[0]
      (3075, 39, 'I am still waiting on my card?')

    References:
      Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", 2020.
    """
    columns = Columns(path=None, id=None, split=None, truth="truth")
    records = open_table(SAMPLE if root is None else root, columns)
    return dataclasses.replace(records, name="banking77-sample")
