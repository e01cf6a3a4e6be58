"""Arithmetic with twice the digits, against exact fractions."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax.solvers import two_float
from eagc_jax.solvers.two_float import TwoFloat

NUMBER = 500


def drawn(rng, dtype):
    """Numbers of many sizes, with a second float each."""
    high = rng.normal(size=NUMBER) * 2.0 ** rng.integers(-9, 9, size=NUMBER)
    high = high.astype(dtype)
    low = high * rng.uniform(-0.4, 0.4, size=NUMBER) * np.finfo(dtype).eps
    return TwoFloat(jnp.asarray(high), jnp.asarray(low.astype(dtype)))


def fractions(x):
    pairs = zip(np.asarray(x.high).tolist(), np.asarray(x.low).tolist(), strict=True)
    return [Fraction(high) + Fraction(low) for high, low in pairs]


def worst(found, exact, sizes):
    """In units of eps^2 of the sizes."""
    eps = Fraction(float(jnp.finfo(found.high.dtype).eps))
    triples = zip(fractions(found), exact, sizes, strict=True)
    return float(max(abs(f - e) / (s * eps**2) for f, e, s in triples))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_floats_have_twice_the_digits(dtype):
    """Compiled: contraction of products and sums must not spoil the errors' terms."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == np.float64):
        a, b = drawn(rng, dtype), drawn(rng, dtype)
        total, product, inverse = jax.jit(
            lambda a, b: (
                two_float.add(a, b),
                two_float.multiply(a, b),
                two_float.reciprocal(a),
            )
        )(a, b)
        x, y = fractions(a), fractions(b)
        pairs = list(zip(x, y, strict=True))
        sizes = [abs(p) + abs(q) for p, q in pairs]
        assert worst(total, [p + q for p, q in pairs], sizes) <= 2
        exact = [p * q for p, q in pairs]
        # Of float64 the halves have 26 and 27 bits: the last product is rounded.
        assert worst(product, exact, [abs(p) for p in exact]) <= 4
        exact = [1 / p for p in x]
        assert worst(inverse, exact, [abs(p) for p in exact]) <= 4


def test_matrix_product():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(4, 30)).astype(np.float32)
    vector = rng.normal(size=30).astype(np.float32)
    found = jax.jit(two_float.product)(jnp.asarray(matrix), jnp.asarray(vector))
    exact = [
        sum(
            Fraction(float(m)) * Fraction(float(v))
            for m, v in zip(row, vector, strict=True)
        )
        for row in matrix
    ]
    sizes = [Fraction(float(s)) for s in np.abs(matrix) @ np.abs(vector)]
    assert worst(found, exact, sizes) <= 4  # partial sums are below the last one


def test_powers_of_two():
    x = jnp.array([1.0, 1.5, 3.9, 4.0, 2.0**-126, 0.0, jnp.inf, jnp.nan])
    found = two_float.power_of_two_below(x)
    np.testing.assert_array_equal(found, [1, 1, 2, 4, 2.0**-126, 1, 1, 1])
