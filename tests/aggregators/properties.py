"""Directions of a batch of matrices, and errors relative to what they are made of.

``weights`` maps a batch of Gram matrices ``(B, K, K)`` (float32) to ``(B, K)``; matrices
are ``(B, K, n)`` float64. Directions are formed in float64, so that what is seen is the
weights' own error. Errors are relative to ``sum_k |w_k| n_k``, the sum of the lengths
that a direction is made of: gradients may cancel, and rounding doesn't.
"""

import numpy as np

from eagc_jax.testing.matrices import gram_of

EPS = float(np.finfo(np.float32).eps)


def solve(weights, matrices):
    """Weights ``(B, K)`` and directions ``(B, n)``, float64."""
    gram = gram_of(matrices).astype(np.float32)
    found = np.asarray(weights(gram), np.float64)
    return found, np.einsum("bk,bkn->bn", found, matrices)


def size_of(found, matrices):
    """``sum_k |w_k| n_k``, ``(B, 1)``."""
    norms = np.linalg.norm(matrices, axis=-1)
    return np.sum(np.abs(found) * norms, axis=1, keepdims=True)


def error(left, right, size):
    """The largest ``|left - right| / size`` of a batch; 0 / 0 is 0."""
    difference = np.linalg.norm(left - right, axis=-1, keepdims=True)
    return np.max(np.where(difference > 0, difference / np.where(size > 0, size, 1), 0))


def cosines(matrices, directions):
    """Of each row with the direction ``(B, K)``; 1 where either is zero."""
    norms = np.linalg.norm(matrices, axis=-1)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    product = np.einsum("bkn,bn->bk", matrices, directions)
    both = norms * length
    return np.where(both > 0, product / np.where(both > 0, both, 1.0), 1.0)


def assert_multiple(weights, matrices, expected, tolerance=1e-5):
    """The direction is ``expected`` ``(B, n)``, relative to the largest row."""
    found, direction = solve(weights, matrices)
    assert np.all(np.isfinite(found))
    largest = np.max(np.linalg.norm(matrices, axis=-1, keepdims=True), axis=1)
    assert error(direction, expected, largest) <= tolerance
