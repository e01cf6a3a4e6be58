"""Rows of a memory-mapped file, or of anything that can be sliced, a chunk at a time."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.clustering import _lloyd

_CHUNK_ENTRIES = 2**23  # entries of the rows that are on the device at once: 32 MiB
_FEWEST = 256  # rows of the smallest chunk of some of the rows


class Chunk(NamedTuple):
    """Some rows, filled up so that all chunks have the same shape."""

    start: int
    stop: int
    rows: Any  # (c, D), as stored
    pinned: np.ndarray  # (c,) int32


class Chunks:
    """The rows of anything that can be sliced, some at a time.

    `pinned` is the class of labeled rows and -1 elsewhere, None if there are none.
    """

    def __init__(self, features, pinned: np.ndarray | None = None):
        self.features = features
        self.pinned = np.full(len(features), -1) if pinned is None else pinned
        self.length = _chunk_length(features)

    def __iter__(self) -> Iterator[Chunk]:
        for rows in row_slices(self.features):
            yield self._filled(rows, rows.start, self.length)

    def of(self, rows: np.ndarray) -> Iterator[Chunk]:
        """The same of some of the rows, which are given by their numbers in order."""
        # Few shapes, as each is compiled, but not a whole chunk for a handful of rows.
        length = _FEWEST
        while length < min(len(rows), self.length):
            length *= 4
        length = min(length, self.length)
        for start in range(0, len(rows), length):
            yield self._filled(rows[start : start + length], start, length)

    def _filled(self, which, start: int, length: int) -> Chunk:
        rows, pinned = self.features[which], self.pinned[which].astype(np.int32)
        number, width = rows.shape
        fill = length - number
        if fill:
            xp = jnp if isinstance(rows, jax.Array) else np
            rows = xp.concatenate([rows, xp.zeros((fill, width), rows.dtype)])
            pinned = np.concatenate([pinned, np.full(fill, -1, np.int32)])
        return Chunk(start, start + number, rows, pinned)


def row_slices(features) -> list[slice]:
    """Which rows each chunk has."""
    length = _chunk_length(features)
    starts = range(0, len(features), length)
    return [slice(start, min(start + length, len(features))) for start in starts]


def _chunk_length(features) -> int:
    size, width = features.shape
    chunks = math.ceil(size / max(1, _CHUNK_ENTRIES // width))
    return math.ceil(size / chunks)


def unit_rows(rows) -> jax.Array:
    """Rows as stored, normalised, in float32 at least."""
    rows = jnp.asarray(rows)
    return _lloyd._normalized(rows.astype(jnp.promote_types(rows.dtype, jnp.float32)))
