"""The samplers keep their promises: a property test on a wrong matrix proves nothing."""

import numpy as np

from eagc_jax.testing import matrices

SHAPE = (16, 4, 8)


def rng():
    return np.random.default_rng(0)


def test_ranks():
    assert np.all(np.linalg.matrix_rank(matrices.of_rank(rng(), *SHAPE, 2)) == 2)
    assert np.all(np.linalg.matrix_rank(matrices.normal(rng(), *SHAPE)) == 4)
    assert np.all(
        np.linalg.matrix_rank(matrices.strongly_stationary(rng(), *SHAPE)) == 3
    )


def test_stationarity():
    for rows in matrices.strongly_stationary(rng(), *SHAPE):
        _, _, right = np.linalg.svd(rows.T)
        null = right[-1]  # the combination that is 0: all of one sign
        np.testing.assert_allclose(null @ rows, 0, atol=1e-9)
        assert np.all(null > 0) or np.all(null < 0)
    rows = matrices.not_stationary(rng(), *SHAPE)
    common = rng().normal(size=(16, 1, 8))
    slopes = np.sum(matrices.unit_rows(rows) * matrices.unit_rows(common), axis=-1)
    assert np.all(slopes > 0)


def test_imbalance_and_conflict():
    rows = matrices.imbalanced(rng(), *SHAPE, ratio=1e4)
    norms = np.linalg.norm(rows, axis=-1)
    np.testing.assert_allclose(norms.max(axis=1) / norms.min(axis=1), 1e4, rtol=1e-9)
    gram = matrices.gram_of(matrices.conflicting(rng(), *SHAPE))
    assert np.mean(np.min(gram, axis=(1, 2)) < 0) > 0.8


def test_equal_hostile_and_not_finite():
    rows = matrices.equal(rng(), *SHAPE)
    assert np.all(rows == rows[:, :1])
    rows = matrices.hostile(rng(), *SHAPE)
    assert np.all(np.isfinite(rows.astype(np.float32)))
    norms = np.linalg.norm(rows, axis=-1)
    assert np.max(norms) > 1e12
    assert np.min(norms) == 0
    rows = matrices.nonfinite(rng(), *SHAPE)
    assert np.all(np.sum(~np.isfinite(rows), axis=(1, 2)) == 1)
