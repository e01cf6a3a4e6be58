"""Linear systems in cosines, of full rank or not."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.solvers import two_float
from eagc_jax.solvers.nnqp import least_eigenvalue
from eagc_jax.solvers.two_float import TwoFloat

# Each multiplies the error by about (rounding of the eigenvectors) / (least eigenvalue).
_REFINEMENTS = 4


def pseudo_inverse(
    cosines: jax.Array, sides: jax.Array
) -> tuple[TwoFloat, jax.Array, jax.Array]:
    r"""Solves :math:`C x = b` where there is a solution, for the least norm.

    Eigenvalues below a few K eps are rounding of a singular matrix and count as 0; the
    rank is decided on them, not on an order of elimination. What is left of b is then
    solved for with twice the digits, so that x is the same whatever the order of the
    rows, also where C is nearly singular.

    Args:
      cosines: C, ``(K, K)``, symmetric, positive semi-definite, of unit diagonal.
      sides: b, ``(K,)``.

    Returns:
      x ``(K,)``; the part of b in the null space of C, ``(K,)``, which no x reaches; and
      whether that part is rounding: ``()``, bool.
    """
    values, vectors = jnp.linalg.eigh(cosines)
    kept = values > least_eigenvalue(cosines)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)

    def on_eigenvectors(factors, x):
        along = jnp.sum(vectors * x[:, None], axis=0)
        return jnp.sum(vectors * (factors * along)[None, :], axis=1)

    def solve(sides):
        def refine(_, x):
            image = two_float.product(cosines, x.high)
            rest = two_float.add(sides, two_float.negative(image))
            rest = rest.high - jnp.sum(cosines * x.low[None, :], axis=1)
            return two_float.add(x, two_float.exact(on_eigenvectors(inverse, rest)))

        zero = two_float.exact(jnp.zeros_like(sides.high))
        return jax.lax.fori_loop(0, 1 + _REFINEMENTS, refine, zero)

    missed = on_eigenvectors(1 - kept.astype(sides.dtype), sides)
    # The eigenvectors are rounded: what they leave in the range of C is taken out.
    both = (two_float.exact(sides), two_float.product(cosines, missed))
    found = jax.vmap(solve)(jax.tree.map(lambda *pair: jnp.stack(pair), *both))
    x = jax.tree.map(lambda one: one[0], found)
    eps = float(jnp.finfo(sides.dtype).eps)
    reached = jnp.sum(missed**2) <= eps * jnp.sum(sides**2)
    return x, missed - found.high[1], reached
