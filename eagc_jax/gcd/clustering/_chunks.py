"""Rows of a memory-mapped file, or of anything that can be sliced, a chunk at a time."""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from eagc_jax.gcd.clustering import _lloyd

#: (N, D) floats, on the device or not; NumPy's may be memory-mapped.
Rows: TypeAlias = np.ndarray | jax.Array

_CHUNK_ENTRIES = 2**23  # entries of the rows that are on the device at once: 32 MiB
_EVEN = 1024  # rows that a chunk of several is a multiple of
_FEWEST = 256  # rows of the smallest chunk of some of the rows


class Chunk(NamedTuple):
    """Some rows, filled up with zeros so that all chunks have the same shape."""

    start: int
    stop: int
    rows: Rows  # (c, D), as stored
    scales: np.ndarray  # (2, c), see `unit_rows`
    pinned: np.ndarray  # (c,) int32, the class of labeled rows, else -1


class Chunks:
    """The rows of anything that can be sliced, some at a time.

    What normalises them is computed once, so that an iteration need not.

    Raises:
      ValueError: a row is not finite.
    """

    def __init__(self, features: Rows, pinned: np.ndarray):
        self.features = features
        self.pinned = pinned
        self.length: int = _chunk_length(features)
        self.scales: np.ndarray = np.concatenate(
            [np.asarray(_scales(features[rows])) for rows in row_slices(features)], 1
        )
        raise_unless_finite(np.isfinite(self.scales[0]))

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

    def _filled(self, which: slice | np.ndarray, start: int, length: int) -> Chunk:
        rows, scales = self.features[which], self.scales[:, which]
        pinned = self.pinned[which].astype(np.int32)
        number = len(rows)
        if number < length:
            rows = _with_rows(rows, length)
            scales = np.pad(scales, ((0, 0), (0, length - number)))
            pinned = np.pad(pinned, (0, length - number), constant_values=-1)
        return Chunk(start, start + number, rows, scales, pinned)


def _with_rows(rows: Rows, length: int) -> Rows:
    xp = jnp if isinstance(rows, jax.Array) else np
    return xp.pad(rows, ((0, length - len(rows)), (0, 0)))


def row_slices(features: Rows) -> list[slice]:
    """Which rows each chunk has."""
    length = _chunk_length(features)
    starts = range(0, len(features), length)
    return [slice(start, min(start + length, len(features))) for start in starts]


def _chunk_length(features: Rows) -> int:
    size, width = features.shape
    chunks = math.ceil(size / max(1, _CHUNK_ENTRIES // width))
    length = math.ceil(size / chunks)
    # In blocks without filling, see `_lloyd._in_blocks`.
    return length if chunks == 1 else length + -length % _EVEN


@jax.jit
def _scales(rows: jax.Array) -> jax.Array:
    return jnp.stack(_lloyd._scales(as_float(rows)))


def unit_rows(rows: ArrayLike, scales: jax.Array) -> jax.Array:
    """Rows as stored, normalised, in float32 at least."""
    return _lloyd._rescaled(as_float(rows), *scales)


def as_float(rows: ArrayLike) -> jax.Array:
    rows = jnp.asarray(rows)
    return rows.astype(jnp.promote_types(rows.dtype, jnp.float32))


def raise_unless_finite(finite: np.ndarray) -> None:
    """A ValueError that names the first of the rows that aren't."""
    if not finite.all():
        raise ValueError(
            f"features must be finite, row {np.argmin(finite)} is not; "
            f"{np.sum(~finite)} of {len(finite)} rows are not"
        )
