"""Batches of gradient matrices ``(B, K, n)``, float64, of known structure.

Every sampler takes a ``numpy.random.Generator``, B, K and n. What it promises is tested
in ``test_samplers.py``.
"""

import numpy as np


def normal(rng, batch, number, size):
    """Independent normal entries: nearly orthogonal where n is large."""
    return rng.normal(size=(batch, number, size))


def conflicting(rng, batch, number, size, strength=0.7):
    """Rows that share a direction with signs: many pairs have a negative product."""
    common = rng.normal(size=(batch, 1, size))
    signs = rng.choice([-1.0, 1.0], size=(batch, number, 1))
    return normal(rng, batch, number, size) + strength * signs * common


def of_rank(rng, batch, number, size, rank):
    """Matrices of this rank."""
    return rng.normal(size=(batch, number, rank)) @ rng.normal(size=(batch, rank, size))


def strongly_stationary(rng, batch, number, size):
    """Rows that a positive combination brings to 0; any K - 1 of them independent."""
    weights = rng.uniform(0.5, 1.5, size=(batch, number, 1))
    rows = normal(rng, batch, number, size)
    rows[:, -1] = 0.0
    rows[:, -1] = -np.sum(weights * rows, axis=1) / weights[:, -1]
    return rows


def not_stationary(rng, batch, number, size):
    """Rows in one open half-space: a common descent direction exists, with a margin."""
    common = rng.normal(size=(batch, 1, size))
    common /= np.linalg.norm(common, axis=-1, keepdims=True)
    rows = normal(rng, batch, number, size)
    along = np.sum(rows * common, axis=-1, keepdims=True)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows + (np.abs(along) - along + 0.1 * length) * common


def imbalanced(rng, batch, number, size, ratio=1e4):
    """``conflicting``, with norms log-uniform over ``ratio``, the ends included."""
    rows = conflicting(rng, batch, number, size)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    exponents = rng.uniform(size=(batch, number, 1))
    exponents[:, 0], exponents[:, -1] = 0.0, 1.0
    rows *= ratio**-exponents
    return rng.permuted(rows, axis=1) if number < 2 else _shuffled(rng, rows)


def _shuffled(rng, rows):
    order = np.argsort(rng.uniform(size=rows.shape[:2]), axis=1)
    return np.take_along_axis(rows, order[:, :, None], axis=1)


def gram_of(matrices):
    """``(..., K, n)`` to ``(..., K, K)``."""
    return matrices @ np.swapaxes(matrices, -1, -2)


def unit_rows(matrices):
    """Rows over their norms; zero rows stay."""
    norms = np.linalg.norm(matrices, axis=-1, keepdims=True)
    return matrices / np.where(norms > 0, norms, 1.0)
