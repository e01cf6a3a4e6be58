"""ConFIG, IMTL-G, Nash-MTL, FairGrad, Aligned-MTL: residuals, oracles, identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.aggregators import (
    aligned_mtl,
    conflict_free,
    fairgrad,
    imtl_g,
    nash_mtl,
)
from eagc_jax.testing import matrices as samplers
from tests.aggregators import gram_oracles as oracles
from tests.aggregators import properties

BATCH, SIZE = 24, 12
NUMBERS = (2, 3, 8)
EPS = properties.EPS


@functools.cache
def _compiled(name, settings):
    method = functools.partial(getattr(weightings, name), **dict(settings))
    return jax.jit(
        lambda numbers, args: jax.vmap(lambda *a: method(*a, **numbers))(*args)
    )


def batched(name, *settings):
    """The method over a batch. Floats are traced: one compilation for all of them."""
    numbers = {key: value for key, value in settings if isinstance(value, float)}
    others = tuple(item for item in settings if item[0] not in numbers)
    return lambda *args: _compiled(name, others)(numbers, args)


def matrices_of(number, seed=0, ratio=30.0):
    """Independent rows with conflicts, whose norms differ by up to ``ratio``."""
    rng = np.random.default_rng(seed)
    return samplers.imbalanced(rng, BATCH, number, SIZE, ratio)


@functools.cache
def jitted(name):
    return jax.jit(getattr(weightings, name))


def in_float64(name, matrix, **settings):
    with jax.enable_x64(True):
        gram = jnp.asarray(samplers.gram_of(matrix))
        return np.asarray(jitted(name)(gram, **settings))


def condition(matrices):
    """Of the cosines: what amplifies float32's rounding of the Gram matrix."""
    cosines = samplers.gram_of(samplers.unit_rows(matrices))
    return np.linalg.cond(cosines)


def assert_agrees(found, direction, expected, matrices, factor=50):
    """Within rounding times the condition of each system, relative to its parts."""
    size = properties.size_of(found, matrices)
    bound = factor * EPS * condition(matrices)[:, None] * size
    off = np.linalg.norm(direction - expected, axis=1, keepdims=True)
    assert np.all(off <= bound), np.max(off / bound)


# -- residuals and oracles -------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_config_is_the_pseudo_inverse(number):
    matrices = matrices_of(number)
    found, direction = properties.solve(batched("conflict_free"), matrices)
    expected = np.stack([oracles.config(rows) for rows in matrices])
    assert_agrees(found, direction, expected, matrices)


@pytest.mark.parametrize("number", NUMBERS)
def test_config_has_equal_cosines(number):
    matrices = matrices_of(number, seed=1, ratio=1e4)
    _, direction = properties.solve(batched("conflict_free"), matrices)
    cosines = properties.cosines(matrices, direction)
    assert np.all(cosines > 0)
    # Rounding of the coefficients, over the length that is left of them.
    spread = np.ptp(cosines, axis=1) / cosines.mean(axis=1)
    assert np.all(spread <= 20 * EPS * number * condition(matrices))


def test_config_in_float64_is_the_pseudo_inverse_to_rounding():
    for rows in matrices_of(4)[:5]:
        direction = in_float64("conflict_free", rows) @ rows
        expected = oracles.config(rows)
        np.testing.assert_allclose(
            direction, expected, atol=1e-11 * np.linalg.norm(expected)
        )


def every(name, key, choices):
    """The method with each choice of a setting: ``(B, choices, K)``, compiled once."""
    method = getattr(weightings, name)
    return jax.jit(
        jax.vmap(lambda g: jnp.stack([method(g, **{key: c}) for c in choices]))
    )


def test_config_length_models():
    matrices = matrices_of(3, ratio=5.0)
    norms = np.linalg.norm(matrices, axis=2)
    typical = {
        "min": norms.min(axis=1),
        "max": norms.max(axis=1),
        "harmonic": 1 / np.mean(1 / norms, axis=1),
        "arithmetic": norms.mean(axis=1),
        "geometric": np.exp(np.log(norms).mean(axis=1)),
    }
    all_lengths = every("conflict_free", "length", typical)
    weights = np.float64(all_lengths(samplers.gram_of(matrices).astype(np.float32)))
    for place, (length, norm) in enumerate(typical.items()):
        direction = np.einsum("bk,bkn->bn", weights[:, place], matrices)
        along = properties.cosines(matrices, direction).sum(axis=1)
        found = np.linalg.norm(direction, axis=1)
        # Rounding times the condition of the cosines, at most 1e3 here.
        np.testing.assert_allclose(found, along * norm, rtol=1e-4, err_msg=length)


def test_config_aims_follow_the_preference():
    rows = matrices_of(4)[0]
    preference = np.array([1.0, 2.0, 0.5, 0.5])
    found = in_float64("conflict_free", rows, preference=preference)
    expected = oracles.config(rows, preference)
    # float32 preferences: their sum is exact, their share is rounded.
    np.testing.assert_allclose(
        found @ rows, expected, atol=1e-6 * np.linalg.norm(expected)
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_imtl_has_equal_projections(number):
    matrices = matrices_of(number, ratio=10.0)
    found, direction = properties.solve(batched("imtl_g"), matrices)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=20 * EPS * np.max(abs(found)))
    units = samplers.unit_rows(matrices)
    projections = np.einsum("bkn,bn->bk", units, direction)
    size = properties.size_of(found, matrices)
    bound = 50 * EPS * condition(matrices)[:, None] * size
    assert np.all(np.ptp(projections, axis=1, keepdims=True) <= bound)


def test_imtl_is_the_papers_form():
    for rows in matrices_of(4, seed=3)[:8]:
        found, expected = in_float64("imtl_g", rows), oracles.imtl_g(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_imtl_and_config_share_their_direction():
    matrices = matrices_of(8, seed=4)
    _, one = properties.solve(batched("imtl_g"), matrices)
    _, other = properties.solve(batched("conflict_free"), matrices)
    cosine = properties.cosines(one[:, None], other)
    # A cosine's error is the square of the direction's, about 1e-4 here.
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-6)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fair_residual(number, alpha):
    matrices = matrices_of(number, seed=5, ratio=1e3)
    weights = batched("fairgrad", ("alpha", alpha))
    found, direction = properties.solve(weights, matrices)
    progress = np.einsum("bkn,bn->bk", matrices, direction)
    assert np.all(progress > 0)
    residual = np.abs(found ** (1 / alpha) * progress - 1)
    # Each progress is a sum of K products of coefficients that partly cancel.
    norms = np.linalg.norm(matrices, axis=2)
    size = properties.size_of(found, matrices) * norms
    assert np.all(residual <= 40 * EPS * size / progress + 1e-5)


def test_nash_is_fairgrad_of_alpha_one():
    matrices = matrices_of(3)
    one, _ = properties.solve(batched("nash_mtl"), matrices)
    # A constant in both, so that they are the same program, to the last bit.
    fair = jax.jit(jax.vmap(functools.partial(weightings.fairgrad, alpha=1.0)))
    other, _ = properties.solve(fair, matrices)
    np.testing.assert_array_equal(one, other)


def test_nash_has_the_length_of_its_number():
    matrices = matrices_of(3, ratio=1e4)
    _, direction = properties.solve(batched("nash_mtl"), matrices)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1) ** 2, 3, rtol=1e-4)


def test_bargaining_power():
    rows = matrices_of(3)[0]
    preference = np.array([3.0, 1.0, 2.0])
    found = in_float64("nash_mtl", rows, preference=preference)
    power = found * (rows @ (found @ rows))
    np.testing.assert_allclose(power, preference / 2, rtol=1e-6)


def test_fairgrad_of_alpha_zero_is_the_sum():
    zero = functools.partial(weightings.fairgrad, alpha=0.0)  # not traced: not Newton
    found = jax.jit(zero)(np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(found, np.ones(3))


@pytest.mark.parametrize("number", [2, 5])
def test_aligned_is_the_singular_vectors(number):
    rng = np.random.default_rng(7)
    matrices = samplers.normal(rng, BATCH, number, SIZE)
    scales = ("min", "median", "rmse")
    all_scales = every("aligned_mtl", "scale", scales)
    weights = np.float64(all_scales(samplers.gram_of(matrices).astype(np.float32)))
    even = np.full(number, 1 / number)
    # Errors of eigenvalues are relative to the largest: the condition of the Gram.
    cond = np.linalg.cond(samplers.gram_of(matrices))[:, None]
    for place, scale in enumerate(scales):
        found = weights[:, place]
        direction = np.einsum("bk,bkn->bn", found, matrices)
        expected = np.stack([oracles.aligned(rows, even, scale) for rows in matrices])
        off = np.linalg.norm(direction - expected, axis=1, keepdims=True)
        bound = 20 * EPS * cond * properties.size_of(found, matrices)
        assert np.all(off <= bound), scale


def test_aligned_rows_are_orthogonal_and_equally_long():
    rows = samplers.normal(np.random.default_rng(8), 1, 4, SIZE)[0]
    balance = np.stack(
        [in_float64("aligned_mtl", rows, preference=one) for one in np.eye(4)]
    )
    least = np.linalg.eigvalsh(rows @ rows.T)[0]
    aligned = balance @ rows
    np.testing.assert_allclose(aligned @ aligned.T, least * np.eye(4), atol=1e-10)


def test_aligned_drops_directions_below_its_tolerance():
    gram = np.diag(np.float32([1.0, 1e-3]))
    kept = jitted("aligned_mtl")(gram, rel_tol=1e-4)
    np.testing.assert_allclose(kept, [0.5 * 1e-3**0.5, 0.5], rtol=1e-5)
    dropped = jitted("aligned_mtl")(gram, rel_tol=1e-2)
    np.testing.assert_allclose(dropped, [0.5, 0.0], atol=1e-6)


# -- identities ------------------------------------------------------------------------


def test_closed_forms_of_two():
    matrices = matrices_of(2, ratio=1e4)
    norms = np.linalg.norm(matrices, axis=2)
    cosine = properties.cosines(matrices[:, :1], matrices[:, 1])
    config, _ = properties.solve(batched("conflict_free"), matrices)
    imtl, _ = properties.solve(batched("imtl_g"), matrices)
    nash, _ = properties.solve(batched("nash_mtl"), matrices)
    total = norms.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(config, total / (2 * norms), rtol=1e-6)
    np.testing.assert_allclose(imtl, norms[:, ::-1] / total, rtol=1e-6)
    # 1 + c is known to eps, and its relative error is halved by the root.
    np.testing.assert_allclose(nash, 1 / (norms * np.sqrt(1 + cosine)), rtol=1e-5)


def test_aligned_closed_form_of_two():
    for rows in matrices_of(2, ratio=10.0)[:6]:
        gram = rows @ rows.T
        s = np.sqrt(np.linalg.det(gram))
        root = (gram + s * np.eye(2)) / np.sqrt(np.trace(gram) + 2 * s)
        least = np.linalg.eigvalsh(gram)[0]
        expected = np.sqrt(least) * np.linalg.inv(root) @ [0.5, 0.5]
        found = in_float64("aligned_mtl", rows)
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.max(abs(expected)))


@pytest.mark.parametrize("name", ["imtl_g", "conflict_free"])
def test_a_duplicate_leaves_the_direction(name):
    matrices = matrices_of(2, seed=9, ratio=5.0)
    doubled = np.concatenate([matrices, matrices[:, :1]], axis=1)
    _, one = properties.solve(batched(name), matrices)
    _, other = properties.solve(batched(name), doubled)
    cosine = properties.cosines(one[:, None], other)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_opposed_of_unequal_length_is_zero():
    gram = np.repeat(np.float32([[[4.0, -2.0], [-2.0, 1.0]]]), BATCH, axis=0)
    np.testing.assert_allclose(
        batched("imtl_g")(gram), [[1 / 3, 2 / 3]] * BATCH, rtol=1e-6
    )
    np.testing.assert_array_equal(batched("conflict_free")(gram), 0.0)
    np.testing.assert_array_equal(batched("nash_mtl")(gram), 0.0)


def test_nash_and_fairgrad_stop_at_a_stationary_point():
    """The true weights are infinite there: no length of what is left has a meaning."""
    matrices = samplers.strongly_stationary(np.random.default_rng(1), BATCH, 3, SIZE)
    for weights in (batched("nash_mtl"), batched("fairgrad", ("alpha", 2.0))):
        found, _ = properties.solve(weights, matrices)
        np.testing.assert_array_equal(found, 0.0)


def test_imtl_falls_back_where_weights_would_explode():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.1]])
    gram = jnp.asarray(rows @ rows.T, jnp.float32)
    capped = jax.jit(functools.partial(weightings.imtl_g, max_weight=0.01))(gram)
    inverse = 1 / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(capped, inverse / inverse.sum(), rtol=1e-6)


# -- scale and size --------------------------------------------------------------------


def test_direction_is_exact_at_any_scale():
    """From gradients of 1e-15 to 1e15: powers of two, so that only the method rounds."""
    methods = imtl_g, nash_mtl, fairgrad, conflict_free, aligned_mtl
    rows = np.float32([[1.0, 0.0, 0.5], [-0.8, 0.6, 0.0], [0.3, 0.9, 0.3]])
    params = {"w": np.zeros(3, np.float32)}

    @jax.jit
    def first(factor):
        def of(tx):
            return tx.update({"w": factor * rows}, tx.init(params))[0]["w"]

        return {method.__name__: of(method(3)) for method in methods}

    plain = first(1.0)
    for factor in (2.0**-50, 2.0**50):
        for name, found in jax.device_get(first(factor)).items():
            np.testing.assert_allclose(
                found / factor, plain[name], rtol=4 * EPS, err_msg=name
            )


@pytest.mark.slow
def test_config_of_ten_million_parameters():
    """Agrees with float64 to 1e-4, at cosine -0.9 and a norm ratio of 1e3."""
    size, piece = 10_000_000, 1_000_000
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, size), np.float32)
    rows[1] = -0.9 * rows[0] + 0.436 * rows[1]
    rows[1] *= 1e-3
    tx = conflict_free(3)
    state = tx.init({"w": jnp.zeros(size)})
    update = jax.jit(tx.update)({"w": jnp.asarray(rows)}, state)[0]["w"]
    gram = np.zeros((3, 3))
    for start in range(0, size, piece):
        part = rows[:, start : start + piece].astype(np.float64)
        gram += part @ part.T
    norms = np.sqrt(np.diag(gram))
    inverse = np.linalg.inv(gram / np.outer(norms, norms))
    weights = inverse @ np.ones(3) / norms
    weights *= np.sum(gram @ weights) / (weights @ gram @ weights)
    off = 0.0
    for start in range(0, size, piece):
        part = rows[:, start : start + piece].astype(np.float64)
        found = np.asarray(update[start : start + piece], np.float64)
        off += np.sum((found - weights @ part) ** 2)
    assert np.sqrt(off / (weights @ gram @ weights)) <= 1e-4


# -- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conflict_free(2, length="median"), "length must be one of"),
        (lambda: aligned_mtl(2, scale="max"), "scale must be one of"),
        (lambda: aligned_mtl(2, rel_tol=1.0), "rel_tol must lie in"),
        (lambda: fairgrad(2, alpha=-1.0), "alpha must be a finite number >= 0"),
        (lambda: imtl_g(2, max_weight=0.0), "max_weight must be > 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nash_takes_the_length_of_the_mean_unless_told():
    params = {"w": np.zeros(2, np.float32)}
    every = nash_mtl(2), nash_mtl(2, rescale="native")

    @jax.jit
    def first(grads):
        return [tx.update(grads, tx.init(params))[0]["w"] for tx in every]

    found, native = first({"w": np.float32([[4.0, 0.0], [0.0, 2.0]])})
    np.testing.assert_allclose(np.linalg.norm(found), 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(native), 2**0.5, rtol=1e-6)
