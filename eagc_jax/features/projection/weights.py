"""Energies, weights, coefficients, and the gradient without its share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax._trees import compute_dtype, counted, widened
from eagc_jax.blocks import GLOBAL, Layout
from eagc_jax.features.projection.measure import Found
from eagc_jax.features.projection.options import Options
from eagc_jax.features.projection.state import ElasticProjectionState
from eagc_jax.objectives import expand_to, stack_by_row


def energies_of(
    found: Found, state: ElasticProjectionState, advance: jax.Array, options: Options
) -> tuple[
    dict[str, jax.Array],
    dict[str, jax.Array],
    dict[str, jax.Array],
    dict[str, jax.Array],
]:
    """(energies (K, blocks), mu (1, blocks), average, visits), by group."""
    energies, mu = {}, {}
    average, visits = dict(state.average), dict(state.visits)
    s = options.supervised
    for group, square in found.square.items():
        # Roots before the product: it stays in range where the squares' would not.
        size = jnp.sqrt(square) * jnp.sqrt(found.length[group])
        cosine = found.along[group] / jnp.where(size > 0, size, 1.0)
        energies[group] = jnp.where(size > 0, jnp.minimum(cosine**2, 1.0), 0.0)
        if options.energy != "running":
            mu[group] = jnp.where(square[s : s + 1] > 0, 1.0, 0.0)
            continue
        seen = (size[s : s + 1] > 0) & advance
        decay = jnp.asarray(options.reference_decay, jnp.float32)
        new = decay * average[group] + (1 - decay) * energies[group][s : s + 1]
        average[group] = jnp.where(seen, new, average[group])
        visits[group] = counted(visits[group], seen)
        correction = 1 - decay ** visits[group].astype(jnp.float32)
        mu[group] = average[group] / jnp.where(visits[group] > 0, correction, 1.0)
    return energies, mu, average, visits


def weight_of(
    inner: jax.Array, energy: jax.Array, mu: jax.Array, options: Options
) -> jax.Array:
    """``(K, blocks)``: w, 0 for the supervised objective."""
    if options.energy is None:
        outside = jnp.ones_like(energy)
    else:
        ratio = energy / jnp.where(mu > 0, mu, 1.0)
        outside = jnp.where(mu > 0, jnp.clip(1 - ratio, 0.0, 1.0), 0.0)
    weight = jnp.asarray(options.eep_weight, jnp.float32) * outside
    if options.max_projection is not None:
        weight = jnp.minimum(weight, jnp.asarray(options.max_projection, jnp.float32))
    if options.only_conflict:
        weight = jnp.where(inner < 0, weight, 0.0)
    other = jnp.arange(inner.shape[0]) != options.supervised
    return jnp.where(expand_to(other, inner.ndim), weight, 0.0)


def coefficient_of(
    weight: jax.Array, found: Found, group: str, options: Options
) -> jax.Array:
    """How often the supervised gradient is taken off; 0 where it isn't finite."""
    square = found.square[group][options.supervised][None]
    share = found.inner[group] / jnp.where(square > 0, square, 1.0)
    coefficient = jnp.where(weight > 0, weight * share, 0.0)
    return jnp.where(jnp.isfinite(coefficient), coefficient, 0.0)


def spread(groups: dict[str, jax.Array], layout: Layout) -> dict[str, jax.Array]:
    """Coefficients by leaf, from those by group of blocks."""
    if layout.granularity == GLOBAL:
        return dict.fromkeys(layout.axes, groups[GLOBAL][:, 0])
    return layout.scatter(groups)


def projected_leaf(
    leaf: jax.Array, coefficient: jax.Array, units: jax.Array, supervised: int
) -> jax.Array:
    """One leaf's gradients ``(K, *shape)``, less their share of the supervised one."""
    real = compute_dtype(leaf.real.dtype)
    own = widened(leaf[supervised]) / units[supervised].astype(real)

    def row(one, own, factor, unit):
        # Where nothing is taken off the gradient stays as it is, to the last bit,
        # whatever the supervised one is: 0 * NaN would not be 0.
        off = factor.astype(real) * own * unit.astype(real)
        off = jnp.where(factor != 0, off, 0.0)
        return (widened(one) - off).astype(one.dtype)

    by = expand_to(coefficient, leaf.ndim), expand_to(units, leaf.ndim)
    return stack_by_row(row, leaf, own[None], *by)
