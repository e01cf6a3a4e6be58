"""The backward pass: elastic projection (EEP) and anchor alignment (AGA)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._trees import widened


class Plan(NamedTuple):
    """What the backward pass needs."""

    conceptor: jax.Array  # (D, D)
    weights: jax.Array  # (N,)
    added: jax.Array  # (N, D)


def through(
    split: bool, features: jax.Array, probe: jax.Array, plan: Plan
) -> jax.Array:
    """The identity, twice where ``split``; backward, what the plan says."""
    return _through(split, features, probe, plan)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _through(
    split: bool, features: jax.Array, probe: jax.Array, plan: Plan
) -> jax.Array:
    del probe, plan
    return jnp.stack([features, features]) if split else features


def _forward(
    split: bool, features: jax.Array, probe: jax.Array, plan: Plan
) -> tuple[jax.Array, tuple[jax.Array, Plan]]:
    return _through(split, features, probe, plan), (probe, plan)


def _backward(
    split: bool, residuals: tuple[jax.Array, Plan], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    probe, plan = residuals
    stacked = cotangent if split else cotangent[None]
    edited, shares = edit(stacked, plan, (1,) if split else (0,), 0)
    total = edited[0] + edited[1] if split else edited[0]
    return total.astype(cotangent.dtype), shares.astype(probe.dtype), None


_through.defvjp(_forward, _backward)


def edit(
    gradients: jax.Array, plan: Plan, projected: tuple[int, ...], supervised: int
) -> tuple[jax.Array, jax.Array]:
    """EEP on the ``projected`` of ``(K, N, D)``, AGA on one; and the two shares."""
    gradients = jnp.asarray(gradients)
    wide = widened(gradients)
    plan = jax.tree.map(lambda part: part.astype(wide.dtype), plan)
    everything = projected == tuple(range(wide.shape[0]))
    index = slice(None) if everything else np.array(projected)
    inside = jnp.matmul(wide[index], plan.conceptor, precision="highest")
    removed = plan.weights[None, :, None] * inside
    edited = wide - removed if everything else wide.at[index].add(-removed)
    edited = edited.at[supervised].add(plan.added)
    gradient = _norm(jnp.sum(wide, axis=0))
    parts = jnp.stack([_norm(jnp.sum(removed, axis=0)), _norm(plan.added)])
    shares = parts / jnp.where(gradient > 0, gradient, 1.0)
    return edited, jnp.where(gradient > 0, shares, 0.0).astype(jnp.float32)


def _norm(values: jax.Array) -> jax.Array:
    """The length, without under- or overflow of squares."""
    largest = jnp.max(jnp.abs(values), initial=0.0)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((values / scale) ** 2))
