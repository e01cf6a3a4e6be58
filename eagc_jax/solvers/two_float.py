"""Arithmetic with twice the digits: a number as the unevaluated sum of two floats.

A K x K problem of gradients that nearly cancel needs more digits than float32 has, and
float64 is neither there on every device nor switched on in every program. Sums and
products that carry their own rounding errors need ordinary operations only.

No step relies on a rounded product being reused: compilers contract ``a * b + c`` to one
rounding, which would spoil the error terms. Factors are cut into halves by masking bits,
so that their products are exact, contracted or not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class TwoFloat(NamedTuple):
    """``high + low``, with ``low`` at most half a unit in the last place of ``high``."""

    high: jax.Array
    low: jax.Array


def exact(x: jax.Array) -> TwoFloat:
    """A float as it is."""
    return TwoFloat(x, jnp.zeros_like(x))


def of(x: jax.typing.ArrayLike | TwoFloat) -> TwoFloat:
    """Anything as a :class:`TwoFloat`."""
    return x if isinstance(x, TwoFloat) else exact(jnp.asarray(x))


def two_sum(a: jax.Array, b: jax.Array) -> TwoFloat:
    """``a + b`` of floats, exactly."""
    total = a + b
    part = total - a
    return TwoFloat(total, (a - (total - part)) + (b - part))


def add(a: TwoFloat, b: TwoFloat) -> TwoFloat:
    """``a + b``, to about eps^2 of ``|a| + |b|``."""
    total, error = two_sum(a.high, b.high)
    return _normal(total, error + (a.low + b.low))


def multiply(a: TwoFloat, b: TwoFloat) -> TwoFloat:
    """``a b``, to a few eps^2."""
    a1, a2 = _halves(a.high)
    b1, b2 = _halves(b.high)
    middle, error = two_sum(a1 * b2, a2 * b1)
    total, more = two_sum(a1 * b1, middle)
    rest = (a2 * b2 + error) + (a.high * b.low + a.low * b.high)
    return _normal(total, more + rest)


def negative(a: TwoFloat) -> TwoFloat:
    """``-a``."""
    return TwoFloat(-a.high, -a.low)


def reciprocal(a: TwoFloat) -> TwoFloat:
    """``1 / a``, to a few eps^2: one Newton step from the float's."""
    guess = exact(1 / a.high)
    rest = add(exact(jnp.ones_like(a.high)), negative(multiply(a, guess)))
    return add(guess, multiply(guess, rest))


def product(matrix: jax.Array, vector: jax.Array) -> TwoFloat:
    """``(K, L)`` times ``(L,)``, to some L eps^2 of the largest term."""
    terms = multiply(exact(matrix), exact(jnp.broadcast_to(vector, matrix.shape)))
    return sum_last(terms)


def quadratic(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """``v' M v``, to rounding even where its terms cancel."""
    total = sum_last(multiply(exact(vector), product(matrix, vector)))
    return total.high


def sum_last(terms: TwoFloat) -> TwoFloat:
    """The sum over the last axis."""
    number = terms.high.shape[-1]

    def body(index, total):
        term = jax.tree.map(lambda x: jnp.take(x, index, axis=-1), terms)
        return add(total, term)

    zero = jax.tree.map(lambda x: jnp.zeros_like(x[..., 0]), terms)
    return jax.lax.fori_loop(0, number, body, TwoFloat(*zero))


def power_of_two_below(x: jax.Array) -> jax.Array:
    """The largest power of two up to ``x``; 1 where there is none."""
    bits = _masked(x, jnp.finfo(x.dtype).nmant)
    return jnp.where((bits > 0) & jnp.isfinite(x), bits, 1)


def _normal(total: jax.Array, rest: jax.Array) -> TwoFloat:
    """``total + rest``, ``rest`` much the smaller."""
    high = total + rest
    return TwoFloat(high, rest - (high - total))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two floats of half the bits whose sum is ``x``."""
    digits = jnp.finfo(x.dtype).nmant + 1
    first = _masked(x, digits - digits // 2)
    return first, x - first


def _masked(x: jax.Array, bits: int) -> jax.Array:
    """``x`` without the last ``bits`` of its significand."""
    size = 8 * x.dtype.itemsize
    integer = jnp.dtype(f"uint{size}")
    mask = jnp.array((1 << size) - (1 << bits), integer)
    kept = jax.lax.bitcast_convert_type(x, integer) & mask
    return jax.lax.bitcast_convert_type(kept, x.dtype)
