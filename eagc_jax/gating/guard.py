"""The descent guard: gates blended towards the weights where descent asks for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax._trees import widened
from eagc_jax.blocks import GLOBAL, Layout
from eagc_jax.objectives import expand_to, reduce_objectives, weighted_sum


def guard(
    gates: dict[str, jax.Array],
    leaves: dict[str, jax.Array],
    layout: Layout,
    weights: jax.Array,
    eta: jax.typing.ArrayLike,
) -> dict[str, jax.Array]:
    """Blends the gates towards the weights as far as each block needs it."""
    by_leaf = layout.scatter(gates)
    inner, square = {}, {}
    for name, leaf in leaves.items():
        wide = widened(leaf)
        plain = weighted_sum(wide, weights)
        gated = reduce_objectives(jnp.add, wide * by_leaf[name].astype(wide.dtype))
        for found, product in (
            (inner, (gated * jnp.conj(plain)).real),
            (square, (plain * jnp.conj(plain)).real),
        ):
            found[name] = product[None]
    inner, square = layout.block_means(inner), layout.block_means(square)
    if layout.granularity == GLOBAL:
        sizes = layout.sizes()[None]
        inner, square = (
            jnp.sum(layout.leaf_means(value) * sizes, axis=1, keepdims=True)
            for value in (inner, square)
        )
        blend = _blend_needed(inner, square, eta)
        return {group: _blend(gate, weights, blend) for group, gate in gates.items()}
    return {
        group: _blend(gate, weights, _blend_needed(inner[group], square[group], eta))
        for group, gate in gates.items()
    }


def _blend_needed(
    inner: jax.Array, square: jax.Array, eta: jax.typing.ArrayLike
) -> jax.Array:
    short = inner < eta * square
    return jnp.where(
        short, (eta * square - inner) / jnp.where(short, square - inner, 1.0), 0.0
    )


def _blend(gate: jax.Array, weights: jax.Array, blend: jax.Array) -> jax.Array:
    return gate + blend * (expand_to(weights, gate.ndim) - gate)
