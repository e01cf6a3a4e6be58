"""One step of a probe: what the optimizer makes of the gradients, loss by loss."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._trees import compute_dtype, widened
from eagc_jax.diagnostics.probing.measuring import attainable, nonzero
from eagc_jax.objectives import weighted_sum
from eagc_jax.typing import OptState, Params, PyTree, Updates

_PRECISION = jax.lax.Precision.HIGHEST


class Applied(NamedTuple):
    """One step. K objectives, L leaves."""

    progress: jax.Array  # (K,)
    expected: jax.Array  # (K,)
    remembered: jax.Array  # (K,)
    response: jax.Array  # (K, K, L)
    attainable: jax.Array  # ()


def apply(
    optimizer: optax.GradientTransformation,
    gradients: Updates,
    units: PyTree,
    norms: jax.Array,
    state: OptState,
    params: Params,
) -> tuple[Updates, OptState, Applied]:
    r"""A step on the plain sum, and what it does to each loss to first order.

    With :math:`u(g)` the update that the optimizer makes of a gradient:
    :math:`\langle g_k, u(\sum_j g_j) \rangle` is the change of loss k,
    :math:`\langle g_k, u(0) \rangle` the part of it that the optimizer brings along
    (momentum, weight decay), and
    :math:`-\langle \hat g_j, \partial u \cdot \hat g_k \rangle` how loss j would fall if
    objective k had a little more weight (unit gradients): for Adam, their inner product
    in the metric of its second moments.

    Args:
      optimizer: of one gradient.
      gradients: leaves ``(K, *shape)``.
      units: the same, of length 1.
      norms: ``(K,)``, their lengths.
      state: of the optimizer.
      params: the parameters.

    Returns:
      The update, the optimizer's state, and what was measured.
    """
    total = jax.tree.map(lambda g: weighted_sum(g, None).astype(g.dtype), gradients)

    def updated(gradient: Updates) -> PyTree:
        return optimizer.update(gradient, state, params)[0]

    def responding(unit: PyTree) -> PyTree:
        unit = jax.tree.map(lambda x, g: x.astype(g.dtype), unit, total)
        response = jax.jvp(updated, (total,), (unit,))[1]
        return jax.tree.map(_or_nothing, response, unit)

    update, after = optimizer.update(total, state, params)
    alone = updated(jax.tree.map(jnp.zeros_like, total))
    responses = jax.lax.map(responding, units)  # one after another: K trees, not K more
    response = -_products(units, responses).astype(norms.dtype)  # (K, K, L)
    size = nonzero(_largest(update)).astype(norms.dtype)
    scaled = jax.tree.map(lambda x: x / size.astype(x.dtype), update)
    inner = _inner(units, scaled).astype(norms.dtype)
    length = jnp.sqrt(_square(scaled)).astype(norms.dtype)
    measured = Applied(
        progress=jnp.clip(-inner / nonzero(length), -1.0, 1.0),
        expected=inner * size * norms,
        remembered=_inner(units, alone).astype(norms.dtype) * norms,
        response=response,
        attainable=attainable(cosines_of(jnp.sum(response, axis=-1))),
    )
    return update, after, measured


def _or_nothing(response: jax.Array, unit: jax.Array) -> jax.Array:
    """0 for entries that no gradient reaches: there the root in Adam has no slope."""
    return jnp.where((unit == 0) & jnp.isnan(response), 0, response)


def cosines_of(response: jax.Array) -> jax.Array:
    """``(K, K)`` cosines in the optimizer's metric; 0 for who gets no response."""
    even = (response + response.T) / 2
    length = jnp.sqrt(jnp.maximum(jnp.diagonal(even), 0.0))
    product = length[:, None] * length[None]
    return jnp.where(product > 0, jnp.clip(even / nonzero(product), -1.0, 1.0), 0.0)


def _products(left: PyTree, right: PyTree) -> jax.Array:
    """``(K, K, L)``: inner products of K with K trees, leaf by leaf."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    products = [
        jnp.matmul(_rows(a), _rows(b).astype(a.dtype).T, precision=_PRECISION)
        for a, b in pairs
    ]
    return jnp.moveaxis(_stacked(products), 0, -1)


def _inner(units: PyTree, tree: PyTree) -> jax.Array:
    """``(K,)``: inner products of K trees with one."""
    pairs = zip(jax.tree.leaves(units), jax.tree.leaves(tree), strict=True)
    products = [
        jnp.matmul(_rows(a), x.reshape(-1).astype(a.dtype), precision=_PRECISION)
        for a, x in pairs
    ]
    return _sum(products)


def _rows(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(len(leaf), -1)


def _square(tree: PyTree) -> jax.Array:
    return _sum([jnp.sum(jnp.square(widened(x))) for x in jax.tree.leaves(tree)])


def _largest(tree: PyTree) -> jax.Array:
    largest = [jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves(tree)]
    return jnp.max(_stacked(largest))


def _sum(values: list[jax.Array]) -> jax.Array:
    return jnp.sum(_stacked(values), axis=0)


def _stacked(values: list[jax.Array]) -> jax.Array:
    """In the widest of their dtypes; said, as strict promotion asks for it."""
    dtype = functools.reduce(np.promote_types, [compute_dtype(x.dtype) for x in values])
    return jnp.stack([x.astype(dtype) for x in values])
