"""BANKING77: questions to a bank."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from eagc_jax.gcd.sources.columns import Columns, open_table
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.posing import pose_half
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

Part = Literal["train", "test"]

_ADVICE = (
    "Give the folder with the tables train.csv and test.csv (columns text, category) "
    "from the repository github.com/PolyAI-LDN/task-specific-datasets (folder "
    "banking_data), or one of the two."
)


@register("banking77")
def banking77(
    root: str | os.PathLike[str] | None = None, *, part: Part = "train", seed: int = 0
) -> Records:
    """10,003 questions to a bank with 77 intents, every second of them known.

    There is no published split for discovery: known classes, and half of each one's
    questions that are labeled, are drawn by `seed`.

    Args:
      root: the table, or the folder that holds it as PART.csv or banking77_PART.csv.
      part: "train" or "test".
      seed: of the draws.

    Returns:
      Records of texts in the table's order; ids are row numbers.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: the table has not these columns, or a question has no intent.

    References:
      Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", 2020.
    """
    files = [f"banking77_{part}.csv", f"{part}.csv"]
    folders = ("", "text/", "banking77/", "banking_data/")
    places = [folder + file for folder in folders for file in files]
    if root is None:  # not just any table named train.csv
        places = [place for place in places if "bank" in place]
    place = locate("BANKING77", root, places, _ADVICE)
    if place.is_dir():
        raise FileNotFoundError(f"{place} holds no {' or '.join(files)}. {_ADVICE}")
    columns = Columns(path=None, label="category", id=None, split=None)
    records = open_table(place, columns, require_labels=False)
    return pose_half(dataclasses.replace(records, name="banking77"), seed=seed)
