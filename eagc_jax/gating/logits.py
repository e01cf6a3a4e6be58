"""One array of blocks: log energies to logits, logits to gates."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eagc_jax._trees import counted
from eagc_jax.gating.options import Options
from eagc_jax.gating.state import BlockMemory
from eagc_jax.objectives import expand_to, reduce_objectives

# In place of a smoothing of 0, which has no logarithm; 1 less it is 1.
_NOTHING_LEFT = 1e-30


def remember(
    log_energies: jax.Array,
    active: jax.Array,
    temperature: jax.typing.ArrayLike,
    options: Options,
    memory: BlockMemory | None,
) -> BlockMemory:
    """Averages the logits of the active objectives; the others keep theirs."""
    logits = _centred(log_energies, active, options.weights) / temperature
    logits = jnp.where(active, logits, 0.0).astype(jnp.float32)
    if memory is None:
        return BlockMemory(logits, jnp.ones_like(logits, jnp.int32), logits)
    beta = jnp.asarray(options.smoothing, jnp.float32)
    average = beta * memory.average + (1 - beta) * logits
    average = jnp.where(active, average, memory.average)
    visits = counted(memory.visits, active)
    # beta^visits, of at least one visit; compilers make a long program of a power.
    passed = jnp.maximum(visits, 1).astype(jnp.float32)
    left = jnp.exp(jnp.log(jnp.maximum(beta, _NOTHING_LEFT)) * passed)
    smooth = average / (1 - left)
    target = jnp.clip(
        memory.logits, smooth - options.hysteresis, smooth + options.hysteresis
    )
    if options.slew is not None:
        move = jnp.clip(target - memory.logits, -options.slew, options.slew)
        target = memory.logits + move
    return BlockMemory(average, visits, jnp.where(active, target, memory.logits))


def _centred(
    log_energies: jax.Array, active: jax.Array, weights: jax.Array
) -> jax.Array:
    """Log energies less their prior mean over the active ones.

    The largest is taken off first, so that equal energies give exactly 0.
    """
    prior = jnp.where(active, expand_to(weights, active.ndim), 0.0)
    total = _over_objectives(jnp.add, prior)
    largest = _over_objectives(jnp.maximum, jnp.where(active, log_energies, -jnp.inf))
    below = jnp.where(active, log_energies - largest, 0.0)
    mean = _over_objectives(jnp.add, prior * below) / jnp.where(total > 0, total, 1.0)
    return below - mean


def gate_of(
    logits: jax.Array, active: jax.Array, strength: jax.Array, options: Options
) -> jax.Array:
    """Gates ``(K, *block)`` from logits in force; ``w_k`` where k takes no part."""
    weights = expand_to(options.weights, active.ndim)
    logits = expand_to(logits, active.ndim)
    prior = jnp.where(active, weights, 0.0)
    top = _over_objectives(jnp.maximum, jnp.where(active, logits, -jnp.inf))
    odds = jnp.where(active, jnp.exp(logits - top), 0.0)
    budget = _over_objectives(jnp.add, prior)
    normaliser = _over_objectives(jnp.add, prior * odds)
    # Where all odds are 1, budget and normaliser are the same sum, and share is 1.0 to
    # the last bit: equal energies leave the weighted sum untouched.
    share = odds * budget / jnp.where(normaliser > 0, normaliser, 1.0)
    gate = weights * jnp.maximum(1 + strength * (share - 1), options.floor)
    return jnp.where(active, gate, weights).astype(jnp.float32)


def _over_objectives(
    operator: Callable[..., jax.Array], values: jax.Array
) -> jax.Array:
    """``(K, ...)`` to ``(1, ...)``, which broadcasts in every mode of JAX."""
    return reduce_objectives(operator, values)[None]


def ramp(count: jax.Array, warmup_steps: jax.typing.ArrayLike) -> jax.Array:
    """The share of the gate that is in force, from 0 to 1."""
    steps = jnp.asarray(warmup_steps, jnp.float32)
    share = jnp.minimum(count.astype(jnp.float32) / jnp.maximum(steps, 1.0), 1.0)
    return jnp.where(steps > 0, share, 1.0)
