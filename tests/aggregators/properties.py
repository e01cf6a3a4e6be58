"""What aggregators promise, as assertions on a batch of matrices.

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


def assert_homogeneous(weights, matrices, degree=1.0, tolerance=1e-6):
    """``A(c J) = c^degree A(J)``; c a power of two, so that only the method rounds."""
    found, direction = solve(weights, matrices)
    for exponent in (-40, 40):
        factor = 2.0**exponent
        _, scaled = solve(weights, factor * matrices)
        scaled = scaled / factor**degree
        assert error(scaled, direction, size_of(found, matrices)) <= tolerance


def assert_permutation_equivariant(weights, matrices, rng, tolerance=2e-5):
    """The order of the objectives doesn't matter."""
    found, direction = solve(weights, matrices)
    order = rng.permutation(matrices.shape[1])
    _, permuted = solve(weights, matrices[:, order])
    assert error(permuted, direction, size_of(found, matrices)) <= tolerance


def assert_rotation_equivariant(weights, matrices, rng, tolerance=2e-4):
    """``A(J Q) = A(J) Q`` for orthogonal Q: follows from using only the Gram matrix."""
    size = matrices.shape[-1]
    rotation, _ = np.linalg.qr(rng.normal(size=(size, size)))
    found, direction = solve(weights, matrices)
    _, rotated = solve(weights, matrices @ rotation)
    assert error(rotated, direction @ rotation, size_of(found, matrices)) <= tolerance


def assert_non_conflicting(weights, matrices, tolerance=1e-6):
    """The cosine of the update with every objective is at least ``-tolerance``."""
    found, direction = solve(weights, matrices)
    assert np.all(np.isfinite(found))
    assert np.min(cosines(matrices, direction)) >= -tolerance


def assert_descends(weights, matrices, tolerance=1e-6):
    """The cosine of the update with the sum of the gradients is not negative."""
    _, direction = solve(weights, matrices)
    total = matrices.sum(axis=1, keepdims=True)
    assert np.min(cosines(total, direction)) >= -tolerance


def assert_nonnegative(weights, matrices):
    """Weights are >= 0, exactly."""
    found, _ = solve(weights, matrices)
    assert np.all(found >= 0)


def assert_direction_ignores_rescaling(weights, matrices, rng, tolerance=1e-4):
    """Rescaling one objective changes at most the update's length."""
    factors = rng.uniform(0.1, 10.0, size=(*matrices.shape[:2], 1))
    _, direction = solve(weights, matrices)
    _, other = solve(weights, factors * matrices)
    unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    other = other / np.linalg.norm(other, axis=-1, keepdims=True)
    assert np.max(np.abs(unit - other)) <= tolerance


def assert_linear_under_scaling(weights, matrices, rng, tolerance=1e-4):
    """``A(diag(a + b) J) = A(diag(a) J) + A(diag(b) J)`` for a, b > 0."""
    shape = (*matrices.shape[:2], 1)
    a, b = rng.uniform(0.1, 2.0, size=shape), rng.uniform(0.1, 2.0, size=shape)
    found, total = solve(weights, (a + b) * matrices)
    parts = solve(weights, a * matrices)[1] + solve(weights, b * matrices)[1]
    assert error(parts, total, size_of(found, (a + b) * matrices)) <= tolerance


def assert_multiple(weights, matrices, expected, tolerance=1e-5):
    """The direction is ``expected`` ``(B, n)``, relative to the largest row."""
    found, direction = solve(weights, matrices)
    assert np.all(np.isfinite(found))
    largest = np.max(np.linalg.norm(matrices, axis=-1, keepdims=True), axis=1)
    assert error(direction, expected, largest) <= tolerance


def assert_nan_reaches_the_weights(weights, matrices):
    """A NaN row is never silently ignored by the pure weighting."""
    gram = gram_of(matrices).astype(np.float32)
    gram[:, 0, :] = np.nan
    gram[:, :, 0] = np.nan
    found = np.asarray(weights(gram))
    assert np.all(np.any(np.isnan(found), axis=1))
