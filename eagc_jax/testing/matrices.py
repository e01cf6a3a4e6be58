"""Batches of gradient matrices ``(B, K, n)``, float64, of known structure.

Every sampler takes a ``numpy.random.Generator``, B, K and n. ``not_stationary(rng, 32, 4,
8)`` are 32 matrices of four gradients of eight entries, with a direction that all of them
can be walked along.
"""

from __future__ import annotations

import numpy as np


def normal(rng: np.random.Generator, batch: int, number: int, size: int) -> np.ndarray:
    """Independent normal entries: nearly orthogonal where n is large."""
    return rng.normal(size=(batch, number, size))


def conflicting(
    rng: np.random.Generator, batch: int, number: int, size: int, strength: float = 0.7
) -> np.ndarray:
    """Rows that share a direction with signs: many pairs have a negative product."""
    common = rng.normal(size=(batch, 1, size))
    signs = rng.choice([-1.0, 1.0], size=(batch, number, 1))
    return normal(rng, batch, number, size) + strength * signs * common


def of_rank(
    rng: np.random.Generator, batch: int, number: int, size: int, rank: int
) -> np.ndarray:
    """Matrices of this rank."""
    return rng.normal(size=(batch, number, rank)) @ rng.normal(size=(batch, rank, size))


def strongly_stationary(
    rng: np.random.Generator, batch: int, number: int, size: int
) -> np.ndarray:
    """Rows that a positive combination brings to 0; any K - 1 of them independent."""
    weights = rng.uniform(0.5, 1.5, size=(batch, number, 1))
    rows = normal(rng, batch, number, size)
    rows[:, -1] = 0.0
    rows[:, -1] = -np.sum(weights * rows, axis=1) / weights[:, -1]
    return rows


def not_stationary(
    rng: np.random.Generator, batch: int, number: int, size: int
) -> np.ndarray:
    """Rows in one open half-space: a common descent direction exists, with a margin."""
    common = rng.normal(size=(batch, 1, size))
    common /= np.linalg.norm(common, axis=-1, keepdims=True)
    rows = normal(rng, batch, number, size)
    along = np.sum(rows * common, axis=-1, keepdims=True)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows + (np.abs(along) - along + 0.1 * length) * common


def equal(rng: np.random.Generator, batch: int, number: int, size: int) -> np.ndarray:
    """One row, K times."""
    return np.repeat(normal(rng, batch, 1, size), number, axis=1)


def hostile(rng: np.random.Generator, batch: int, number: int, size: int) -> np.ndarray:
    """Scales from 1e-15 to 1e15, a row of denormals, of zeros, two that oppose."""
    rows = conflicting(rng, batch, number, size)
    rows *= 10.0 ** rng.integers(-15, 16, size=(batch, number, 1))
    rows[::5, 0] = 1e-40
    rows[1::5, -1] = 0.0
    rows[2::5, -1] = -rows[2::5, 0]
    rows[3::5] = rows[3::5, :1]
    return rows


def nonfinite(
    rng: np.random.Generator, batch: int, number: int, size: int
) -> np.ndarray:
    """``normal`` with one NaN or infinity in each matrix."""
    rows = normal(rng, batch, number, size)
    bad = np.resize([np.nan, np.inf, -np.inf], batch)
    place = rng.integers(number, size=batch), rng.integers(size, size=batch)
    rows[np.arange(batch), *place] = bad
    return rows


def imbalanced(
    rng: np.random.Generator, batch: int, number: int, size: int, ratio: float = 1e4
) -> np.ndarray:
    """``conflicting``, with norms log-uniform over ``ratio``, the ends included."""
    rows = conflicting(rng, batch, number, size)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    exponents = rng.uniform(size=(batch, number, 1))
    exponents[:, 0], exponents[:, -1] = 0.0, 1.0
    rows *= ratio**-exponents
    return rng.permuted(rows, axis=1) if number < 2 else _shuffled(rng, rows)


def _shuffled(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    order = np.argsort(rng.uniform(size=rows.shape[:2]), axis=1)
    return np.take_along_axis(rows, order[:, :, None], axis=1)


def gram_of(matrices: np.ndarray) -> np.ndarray:
    """``(..., K, n)`` to ``(..., K, K)``."""
    return matrices @ np.swapaxes(matrices, -1, -2)


def unit_rows(matrices: np.ndarray) -> np.ndarray:
    """Rows over their norms; zero rows stay."""
    norms = np.linalg.norm(matrices, axis=-1, keepdims=True)
    return matrices / np.where(norms > 0, norms, 1.0)
