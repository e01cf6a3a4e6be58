"""Gram matrices in a metric, with a row more, against float64: kernels and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import blocks, gram
from eagc_jax.gram import products
from tests.optimizers.problems import EPS, upgrad
from tests.test_gram import SHAPES, looped  # noqa: F401  (a fixture)


def problem(number, sizes=None, seed=0):
    rng = np.random.default_rng(seed)
    leaves, metric = {}, {}
    for name, shape in (SHAPES | {"other": SHAPES["bias"]}).items():
        leaf = rng.normal(size=(number, *shape))
        if sizes is not None:
            leaf = leaf * sizes.reshape(-1, *(1,) * len(shape))
        leaves[name] = leaf.astype(np.float32)
        diagonal = np.exp(rng.normal(size=shape))
        metric[name] = gram.LeafMetric(
            np.asarray(diagonal, np.float32),
            np.asarray(rng.normal(size=shape), np.float32),
        )
    return leaves, metric


def measured(leaves, metric, granularity="global"):
    layout = blocks.layout_of_updates(granularity, leaves)
    active = jnp.ones((len(leaves["bias"]),), bool)
    return gram.metric_blocks(leaves, layout, active, (), gram.Metric(metric, {}))


def whole(leaves, metric):
    return jax.device_get(jax.jit(measured)(leaves, metric))


@pytest.fixture
def on_cpu():
    """As the tests run."""


@pytest.fixture
def elsewhere(monkeypatch):
    """What is lowered for accelerators, run on the CPU."""

    def platform_dependent(*arguments, default, **others):
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)


def matrices_of(parts):
    """``(B, K, K)``."""
    return (parts.cosines * parts.norms[:, None] * parts.norms[:, :, None]) * (
        parts.scale[:, None, None] ** 2
    )


def oracle(leaves, metric):
    """``(K, K)`` and ``(K,)`` of the whole tree, float64."""
    found, extra = 0.0, 0.0
    for name, leaf in leaves.items():
        g = np.asarray(leaf, np.float64).reshape(len(leaf), -1)
        p, e = (np.asarray(x, np.float64).ravel() for x in metric[name][:2])
        found, extra = found + (g * p) @ g.T, extra + g @ e
    return found, extra


@pytest.mark.parametrize(
    ("number", "path"),
    [
        *[(1, "on_cpu"), (5, "on_cpu"), (34, "on_cpu"), (2, "looped"), (9, "looped")],
        *[(4, "elsewhere"), (35, "elsewhere")],
    ],
)
def test_agrees_with_float64(number, path, request):
    request.getfixturevalue(path)
    leaves, metric = problem(number)
    parts, finite, rest = whole(leaves, metric)
    matrix, extra = oracle(leaves, metric)
    norms = np.sqrt(np.diagonal(matrix))
    found = matrices_of(parts)[0]
    # Sums of some 700 products of numbers near 1: rounding grows as their root.
    np.testing.assert_allclose(found, matrix, rtol=0, atol=30 * EPS * norms.max() ** 2)
    slopes = rest[0] * parts.scale[0]
    np.testing.assert_allclose(slopes, extra / norms, rtol=0, atol=3e3 * EPS)
    assert np.all(finite)


@pytest.mark.parametrize(
    ("granularity", "path"),
    [
        *[("tensor", "on_cpu"), ("channel", "on_cpu"), ("channel", "looped")],
        *[("tensor", "elsewhere"), ("channel", "elsewhere")],
    ],
)
def test_by_block_they_sum_to_the_whole(granularity, path, request):
    request.getfixturevalue(path)
    leaves, metric = problem(3)
    by_block = jax.jit(lambda *x: measured(*x, granularity))
    parts, _, rest = jax.device_get(by_block(leaves, metric))
    matrix, extra = oracle(leaves, metric)
    scale = parts.scale[:, None]
    found = matrices_of(parts).sum(axis=0)
    np.testing.assert_allclose(found, matrix, rtol=0, atol=1e4 * EPS)
    lengths = parts.norms * scale
    np.testing.assert_allclose(
        (rest * scale * lengths).sum(axis=0), extra, rtol=0, atol=1e4 * EPS
    )


@pytest.mark.parametrize("path", ["on_cpu", "elsewhere"])
@pytest.mark.parametrize("size", [1e-24, 1e24])
def test_squares_that_leave_the_range(size, path, request):
    """Rows are scaled before they are squared; the row more is as it is."""
    request.getfixturevalue(path)
    number = {"on_cpu": 3, "elsewhere": 6}[path]  # each is traced by itself
    leaves, metric = problem(number, np.resize([1.0, size, 1.0], number))
    parts, _, rest = whole(leaves, metric)
    matrix, extra = oracle(leaves, metric)
    norms = np.sqrt(np.diagonal(matrix))
    np.testing.assert_allclose(
        parts.cosines[0], matrix / norms / norms[:, None], atol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(rest[0], np.float64) * float(parts.scale[0]),
        extra / norms,
        rtol=1e-4,
        atol=1e-4,
    )


@jax.jit
def without_metric(leaves):
    layout = blocks.layout_of_updates("global", leaves)
    return gram.gram_blocks(leaves, layout, jnp.ones((3,), bool))


@pytest.mark.parametrize("size", [1.0, 0.0, 1e-24, np.nan])
def test_a_metric_of_zeros_is_the_plain_one(size):
    """Whatever one of the objectives is: absent, below the range of squares, broken."""
    leaves, metric = problem(3, np.array([1.0, size, 1.0]))
    zeros = {n: gram.LeafMetric(np.zeros_like(m.diagonal)) for n, m in metric.items()}
    found, finite, rest = whole(leaves, zeros)
    plain, of_plain = without_metric(leaves)
    assert rest is None
    np.testing.assert_array_equal(finite, of_plain)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=4 * EPS), found, plain
    )


def test_the_oracle_knows_upgrad():
    """Of two unit gradients each is projected to be orthogonal to the other."""
    np.testing.assert_allclose(upgrad(np.array([[1, -0.5], [-0.5, 1]])), [0.75, 0.75])


def test_products_are_of_the_platform():
    """The GPU's matrix product and the rest's column, which no test here runs."""
    leaves, metric = problem(6)
    names = list(leaves)

    def function(leaves, metric):
        kept = [()] * len(names)
        ones = jnp.ones((6, 6), jnp.float32)
        given = [metric[n] for n in names]
        return products.leaf_grams([leaves[n] for n in names], kept, ones, given)

    traced = jax.jit(function).trace(leaves, metric)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in text) == (platform == "cuda")

    @jax.jit
    def both(leaf, metric):
        kernels = products._product, products._entry_by_entry
        return [kernel(leaf, (), None, metric) for kernel in kernels]

    for name in names:  # the same numbers
        one, other = both(leaves[name], metric[name])
        assert one.shape == other.shape == (6, 7)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e4 * EPS)


@pytest.mark.parametrize("granularity", ["global", "tensor"])
@pytest.mark.parametrize(
    ("size", "path"), [(1e-24, "on_cpu"), (1e24, "looped"), (1e24, "elsewhere")]
)
def test_products_with_a_row_by_the_lengths_that_are_known(
    size, path, granularity, request
):
    request.getfixturevalue(path)
    leaves, metric = problem(4, np.array([1.0, size, 0.0, 1.0]))

    def function(leaves, metric):
        parts, _, _ = measured(leaves, metric, granularity)
        one = gram.whole(parts)
        return one, *gram.products_with_rest(leaves, one, gram.Metric(metric, {}))

    one, found, length = jax.device_get(jax.jit(function)(leaves, metric))
    matrix, extra = oracle(leaves, metric)
    norms = np.sqrt(np.diagonal(matrix))
    np.testing.assert_allclose(one.norms * one.scale, norms, rtol=1e-5)
    some = norms > 0
    cosines = matrix[some][:, some] / norms[some] / norms[some, None]
    np.testing.assert_allclose(one.cosines[some][:, some], cosines, atol=1e-5)
    slopes = np.asarray(found, np.float64) * float(one.scale)
    np.testing.assert_allclose(slopes[some], extra[some] / norms[some], atol=3e-4)
    assert slopes[2] == 0
    # The rest is P r, and the length that of r in the metric.
    pairs = [[np.asarray(x, float) for x in one[:2]] for one in metric.values()]
    squares = [np.sum(e * e / p) for p, e in pairs]
    np.testing.assert_allclose(length, np.sqrt(sum(squares)), rtol=1e-5)
