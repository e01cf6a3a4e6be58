"""The rows nearest to each row, by cosine: exact, in blocks, cached by content."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.backbones.batches import one_behind
from eagc_jax.gcd.backbones.cache.arrays import cached_array

_BLOCK_ENTRIES = 2**25  # similarities that are in memory at a time; 128 MiB in float32
_SPARE = 8  # candidates beyond k, so that float32 loses none of the k nearest
_GATHERED_ENTRIES = 2**23  # of the candidates' features; 64 MiB in float64
_ROWS_CONVERTED = 2**14
_PIECE_BYTES = 2**24
_VERSION = 1  # of what the table says; part of the cache's key


def neighbours(
    features: np.ndarray,
    k: int = 10,
    *,
    block: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """The k nearest other rows of each row, the nearest first.

    Nearest by the cosine u_i·u_j of the l2-normalised rows, as float64 gives it; of
    equal ones the lower row comes first. A row without length has cosine 0 with all.

    Products of blocks of rows in float32 on the device give k + 8 candidates for each
    row, and float64 on the host puts these in order. Where the last candidate is so
    near that float32 may have lost a neighbour (more than 8 copies of a row, say), all
    rows are gone through in float64, once for all rows of the same content. There is
    never an (N, N) array.

    Args:
      features: (N, D) floats, also memory-mapped; finite.
      k: how many, in [1, N).
      block: rows at a time; by default so many that (block, N) float32 have 128 MiB.
      cache: its folder; the table is kept there by the features' content and k. None
        keeps nothing.

    Returns:
      (N, k) int32 rows.

    Raises:
      ValueError: `k` or `block` is out of its range, or a row is not finite.
      OSError: the cache could not be written.

    Examples:
      >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> neighbours(points, 1).ravel().tolist()
      [1, 0, 3, 2]
    """
    features = np.asarray(features)
    if features.ndim != 2 or not 1 <= k < len(features):
        raise ValueError(
            f"features must be (N, D) and k in [1, N), got shape {features.shape} and "
            f"k = {k}"
        )
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, got {block}")

    def make() -> np.ndarray:
        return _neighbours(features, k, block)

    if cache is None:
        return make()
    return cached_array(cache, _key(features, k), make)


def _key(features: np.ndarray, k: int) -> str:
    content = hashlib.blake2b(digest_size=16)
    for rows in _pieces(features):
        content.update(np.ascontiguousarray(rows).data)
    about = f"{features.shape} {features.dtype} {content.hexdigest()}"
    return f"neighbours {_VERSION} k={k} of features {about}"


def _pieces(features: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _PIECE_BYTES // max(1, features[:1].nbytes))
    return (features[start : start + step] for start in range(0, len(features), step))


def _neighbours(features: np.ndarray, k: int, block: int | None) -> np.ndarray:
    lengths = _lengths(features)
    count = min(k + _SPARE, len(features) - 1)
    error = _float32_error(features.shape[1]) if count < len(features) - 1 else -np.inf
    table = np.empty((len(features), k), np.int32)
    unsure = []
    for start, found in one_behind(_blocks(features, lengths, count, block)):
        similar, rows = (np.asarray(part) for part in found)
        mine = np.arange(start, start + len(rows))
        table[mine], kth = _in_order(features, lengths, mine, rows, k)
        unsure.extend(mine[similar[:, -1] + error >= kth].tolist())
    for same in _of_same_content(features, unsure):
        _go_through(features, lengths, same, table)
    return table


def _lengths(features: np.ndarray) -> np.ndarray:
    """(N,) float64, 1 for a row of zeros."""
    doubles = (rows.astype(np.float64) for rows in _pieces(features))
    squares = [_products("nd,nd->n", rows, rows) for rows in doubles]
    lengths = np.sqrt(np.concatenate(squares))
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise ValueError(f"features must be finite, and row {row} isn't; leave it out")
    return np.where(lengths > 0, lengths, 1.0)


def _float32_error(width: int) -> float:
    """Bounds the error of a cosine of unit rows rounded to float32.

    Each of the two factors is off by 2^-24 relatively, each product and each of the
    additions as well, and the absolute products of unit rows add up to at most 1.
    """
    return (width + 3) * 2.0**-24


def _blocks(
    features: np.ndarray, lengths: np.ndarray, count: int, block: int | None
) -> Iterator[tuple[int, tuple[jax.Array, jax.Array]]]:
    """First row and candidates of each block; the last one overlaps that before it."""
    number = len(features)
    unit = np.empty(features.shape, np.float32)
    for start in range(0, number, _ROWS_CONVERTED):
        rows = slice(start, start + _ROWS_CONVERTED)
        unit[rows] = features[rows] / lengths[rows, None]
    unit = jax.device_put(unit)
    gathered = count * max(1, features.shape[1])
    size = block or min(_BLOCK_ENTRIES // number, _GATHERED_ENTRIES // gathered)
    size = min(max(size, 1), number)
    for start in range(0, number, size):
        start = min(start, number - size)
        yield start, _candidates(unit, start, count=count, size=size)


@functools.partial(jax.jit, static_argnames=("count", "size"))
def _candidates(
    unit: jax.Array, start: jax.Array, *, count: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """(size, count) cosines and rows, for `size` rows from `start` on; not themselves."""
    rows = jax.lax.dynamic_slice_in_dim(unit, start, size)
    similar = jnp.matmul(rows, unit.T, precision=jax.lax.Precision.HIGHEST)
    itself = start + jnp.arange(size)[:, None] == jnp.arange(len(unit))
    return jax.lax.top_k(jnp.where(itself, -jnp.inf, similar), count)


def _in_order(
    features: np.ndarray,
    lengths: np.ndarray,
    mine: np.ndarray,
    rows: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(b, k), the best of the candidates (b, c) in float64; the k-th's cosine (b,)."""
    products = _products("bd,bcd->bc", features[mine], features[rows])
    similar = products / (lengths[mine, None] * lengths[rows])
    order = np.lexsort((rows, -similar))[:, :k]
    kth = np.take_along_axis(similar, order[:, -1:], axis=1)[:, 0]
    return np.take_along_axis(rows, order, axis=1), kth


def _products(which: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products in float64.

    By einsum, whose sum over D contiguous entries does not depend on where a row lies:
    rows of the same content have the same cosine to the last bit. BLAS differs at edges
    of its blocks, and so does einsum itself where it converts the dtype in pieces.
    """
    return np.einsum(which, a.astype(np.float64), b.astype(np.float64))


def _of_same_content(features: np.ndarray, rows: Iterable[int]) -> Iterable[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for row in rows:
        digest = hashlib.blake2b(features[row].tobytes(), digest_size=16).digest()
        groups.setdefault(digest, []).append(row)
    return groups.values()


def _go_through(
    features: np.ndarray, lengths: np.ndarray, same: list[int], table: np.ndarray
) -> None:
    """Fills in the neighbours of rows that have one content, by float64 alone."""
    k, one = table.shape[1], features[same[0]]
    products = [_products("d,nd->n", one, rows) for rows in _pieces(features)]
    similar = np.concatenate(products) / (lengths[same[0]] * lengths)
    least = np.partition(similar, len(similar) - k - 1)[len(similar) - k - 1]
    best = np.flatnonzero(similar >= least)
    best = best[np.argsort(-similar[best], kind="stable")][: k + 1]
    for row in same:
        table[row] = best[best != row][:k]
