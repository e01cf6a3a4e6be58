"""The mesh axes over which ``shard_map`` has split leaves and their blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax


class Split(NamedTuple):
    """The mesh axes over which ``shard_map`` has split a leaf, by what its blocks do."""

    within: tuple[str, ...] = ()  # a block's entries are on several devices.
    across: tuple[str, ...] = ()  # its blocks are.


def axis_sizes(names: tuple[str, ...]) -> int:
    """The number of devices along these mesh axes of the surrounding ``shard_map``."""
    return math.prod(jax.lax.axis_size(name) for name in names)
