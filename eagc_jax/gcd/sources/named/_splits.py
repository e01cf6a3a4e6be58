"""The papers' splits: which classes are known, and the draw of labels."""

from __future__ import annotations

import functools
import json
from importlib import resources

from eagc_jax.gcd.sources.posing import pose
from eagc_jax.gcd.sources.records import Records


@functools.cache
def class_split(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Known and novel class numbers, from 0, in the order of the published lists.

    The novel ones are the hard, then the medium, then the easy ones.

    Examples:
      >>> known, novel = class_split("cub")
      >>> known[:3], len(known), len(novel)
      ((150, 70, 34), 100, 100)

    References:
      Vaze et al., "Open-Set Recognition: a Good Closed-Set Classifier is All You
      Need?", ICLR 2022 (the Semantic Shift Benchmark); Tan et al., "The Herbarium
      Challenge 2019 Dataset", 2019.
    """
    text = (
        resources.files("eagc_jax.gcd.sources.named")
        .joinpath("class_splits.json")
        .read_text()
    )
    split = json.loads(text)[name]
    return tuple(split["known"]), tuple(split["novel"])


def as_published(name: str, records: Records) -> Records:
    """Posed by a published list of classes, with the published draw of labels.

    Args:
      name: of the list.
      records: fully labeled, classes and items in the papers' order.

    Raises:
      ValueError: the data has another number of classes than the list.
    """
    known, novel = class_split(name)
    expected, found = len(known) + len(novel), len(records.class_names)
    if found != expected:
        raise ValueError(
            f"{records.name} should have {expected} classes, found {found}; a part of "
            "the data may be missing"
        )
    return pose(records, known, novel_classes=novel, draw="papers")


def first_known(records: Records, num_known: int) -> Records:
    """Posed with the first classes known, and the published draw of labels."""
    return pose(records, range(num_known), draw="papers")
