"""What a step saw and decided, as arrays of fixed shapes: the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax import diagnostics
from eagc_jax.gcd.methods.base import Role
from eagc_jax.objectives import named_leaves
from eagc_jax.typing import OptState, Params, Updates

Measured: TypeAlias = jax.Array | np.ndarray


class Trace(NamedTuple):
    """What one step saw and decided; NaN where it was not measured.

    K objectives, L parameter tensors, G layers with a decision (none without one). In a
    run's history, NumPy arrays with the steps in front.
    """

    losses: Measured  # (K,)
    gradient_deviation: Measured  # scalar: GDC of the raw gradients below the feature
    gradient_norms: Measured  # (K, L) raw
    cosines: Measured  # (L,) between the first two roles' objectives, raw
    gates: Measured  # (K, G) mean gate, weight or projection of each layer
    labeled_reference: Measured  # scalar: mu after the step's update
    projection_quantiles: Measured  # (5,) of the unlabeled rows' weights
    removed: Measured  # scalar: share of the feature gradient's norm that EEP took
    added: Measured  # scalar: what AGA added, as a share of the same norm


def trace(seen: dict[str, jax.Array], opt_state: OptState) -> Trace:
    """A step's trace from what `step.gradients` saw and the optimizer's new state."""
    nan = jnp.float32(jnp.nan)
    losses = seen["losses"]
    empty = {
        "gradient_deviation": nan,
        "gradient_norms": jnp.zeros((len(losses), 0)),
        "cosines": jnp.zeros(0),
        "labeled_reference": nan,
        "projection_quantiles": jnp.full(5, nan),
        "removed": nan,
        "added": nan,
    }
    return Trace(gates=decided(opt_state, len(losses)), **(empty | seen))


def decided(opt_state: OptState, number: int) -> jax.Array:
    """(K, G): the first decision's values by layer; G = 0 without one."""
    found = diagnostics.decisions(opt_state)
    if not found:
        return jnp.zeros((number, 0), jnp.float32)
    return found[0].values


def shapes(steps: int, number: int, parameters: int, layers: int) -> Trace:
    """Of the traces of some steps, in front: `Trace` with K, L and G.

    Args:
      steps: S.
      number: K.
      parameters: L; 0 where raw gradients are never measured.
      layers: G.
    """

    def of(*shape: int) -> Any:  # a shape, in an array's place
        return jax.ShapeDtypeStruct((steps, *shape), jnp.float32)

    return Trace(
        losses=of(number),
        gradient_deviation=of(),
        gradient_norms=of(number, parameters),
        cosines=of(parameters),
        gates=of(number, layers),
        labeled_reference=of(),
        projection_quantiles=of(5),
        removed=of(),
        added=of(),
    )


def layer_names(params: dict[str, Params]) -> tuple[str, ...]:
    """Of the L parameter tensors, in the trace's order."""
    return tuple(named_leaves(params))


def of_gradients(
    below: dict[str, Updates], head: Updates, weights: jax.Array, roles: Sequence[Role]
) -> dict[str, jax.Array]:
    """GDC, norms and cosines of raw gradients by objective, leaves (K, *shape)."""
    pair = roles.index("labeled"), roles.index("unlabeled")
    norms, cosines = [], []
    for leaf in named_leaves({**below, "head": head}).values():
        flat = leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)
        length = jnp.sqrt(jnp.sum(flat**2, axis=1))
        norms.append(length)
        dot = jnp.sum(flat[pair[0]] * flat[pair[1]])
        product = length[pair[0]] * length[pair[1]]
        cosines.append(jnp.where(product > 0, dot / product, jnp.nan))
    return {
        "gradient_deviation": _deviation(below, weights, pair),
        "gradient_norms": jnp.stack(norms, axis=1),
        "cosines": jnp.stack(cosines),
    }


def _deviation(
    below: dict[str, Updates], weights: jax.Array, pair: tuple[int, int]
) -> jax.Array:
    """As published: below the feature, with the loss weights. Nothing, no angle."""
    if not jax.tree.leaves(below):
        return jnp.float32(jnp.nan)
    rows = [jax.tree.map(lambda leaf, k=k: weights[k] * leaf[k], below) for k in pair]
    return diagnostics.gradient_deviation(*rows)


def nothing(params: dict[str, Params], weights: jax.Array) -> dict[str, jax.Array]:
    """NaN in the same shapes, for a step that isn't measured."""
    layers = len(layer_names(params))
    return {
        "gradient_deviation": jnp.float32(jnp.nan),
        "gradient_norms": jnp.full((len(weights), layers), jnp.nan, jnp.float32),
        "cosines": jnp.full(layers, jnp.nan, jnp.float32),
    }
