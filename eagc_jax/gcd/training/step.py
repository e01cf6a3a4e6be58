"""One training step: objectives at the feature, coordination, gradients, a trace.

The model is cut where the paper coordinates, at the backbone's feature. The objectives
are differentiated through the heads down to the feature; there their gradients may be
edited; from there they are pulled back through the trained blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax import diagnostics, features
from eagc_jax.gating import SoftGateState
from eagc_jax.gcd.methods.base import Batch, Method
from eagc_jax.gcd.models import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination
from eagc_jax.gradients import value_and_grads
from eagc_jax.objectives import named_leaves, stack_objectives

SUPERVISED, UNSUPERVISED = 0, 1


class Trace(NamedTuple):
    """What one step saw and decided; NaN where it was not measured.

    K objectives, L parameter tensors, G gated layers (none without a gate).
    """

    losses: jax.Array  # (K,)
    gradient_deviation: jax.Array  # scalar: GDC of the raw gradients of the blocks
    gradient_norms: jax.Array  # (K, L) raw
    cosines: jax.Array  # (L,) between the first two objectives, raw
    gates: jax.Array  # (K, G) mean factor per layer
    labeled_reference: jax.Array  # scalar: mu after the step's update
    projection_quantiles: jax.Array  # (5,) of the unlabeled rows' weights
    removed: jax.Array  # scalar: share of the feature gradient's norm that EEP took
    added: jax.Array  # scalar: what AGA added, as a share of the same norm


class Coordination(NamedTuple):
    """What the feature coordinator needs in a step."""

    settings: FeatureCoordination  # static
    reference: Any  # the reference model's trained blocks, like params["backbone"]
    state: features.CoordinatorState
    strength: jax.Array  # scalar in [0, 1] that multiplies what is done
    features: jax.Array | None = None  # the reference model's, where at hand: (2B, D)


class Problem(NamedTuple):
    """What a step's compilation depends on."""

    method: Method
    rebuild: Callable[[Any], DiscoveryModel]  # model of given trainable parameters
    summed: bool  # one backward pass of the weighted sum instead of K


def gradients(
    problem: Problem,
    params: dict[str, Any],
    tokens: jax.Array,
    batch: Batch,
    coordination: Coordination | None,
    measure: jax.Array | bool,
) -> tuple[Any, features.CoordinatorState | None, dict[str, Any]]:
    """Gradients of the objectives and what the trace is made of.

    Args:
      problem: method and model.
      params: {"backbone": trained blocks, "head": heads}; the former may be missing.
      tokens: (2B, T, width), two views after the frozen prefix.
      batch: labels, mask, epoch.
      coordination: at the feature, or None.
      measure: whether to measure the raw gradients in this step.

    Returns:
      (gradients, new coordinator state, parts of the trace). Leaves are (K, *shape), or
      (*shape), the weighted sum's, where the problem says so.
    """
    weights = jnp.asarray(problem.method.objective_weights, jnp.float32)
    trunk = params.get("backbone", {})

    def features_of(blocks: Any) -> jax.Array:
        return problem.rebuild(_with(params, blocks)).features(tokens)

    def losses_of(head_params: Any, z: jax.Array) -> jax.Array:
        head = problem.rebuild({**params, "head": head_params}).head
        return jnp.stack(problem.method.objectives(head, z, batch))

    z, pullback = jax.vjp(features_of, trunk)
    each = value_and_grads(losses_of, argnums=(0, 1))
    split = not problem.summed or (
        coordination is not None and coordination.settings.mode == "unsupervised_only"
    )
    if split:
        losses, (of_head, of_z) = each(params["head"], z)
        if problem.summed:
            of_head = _scale_rows(of_head, weights)
            of_z = of_z * weights[:, None, None]
    else:

        def total(head_params, z):
            losses = losses_of(head_params, z)
            return weights @ losses, losses

        (_, losses), (of_head, of_z) = jax.value_and_grad(
            total, argnums=(0, 1), has_aux=True
        )(params["head"], z)

    seen: dict[str, Any] = {"losses": losses}
    state = None
    if coordination is not None:
        # AGA's strength is that on the weighted sum; the aggregator will apply the
        # supervised objective's weight to what is added here.
        scale = 1.0
        if not problem.summed:
            scale = problem.method.objective_weights[SUPERVISED]
        reference = coordination.features
        if reference is None:  # the frozen prefix is shared: the trained blocks alone
            reference = jax.lax.stop_gradient(features_of(coordination.reference))
        of_z, state, info = _coordinate(of_z, z, reference, batch, coordination, scale)
        seen |= {
            "labeled_reference": state.labeled_reference,
            "projection_quantiles": info.quantiles,
            "removed": info.removed_share,
            "added": info.added_share,
        }
    if problem.summed:
        if split:
            of_head = jax.tree.map(lambda leaf: leaf.sum(axis=0), of_head)
            of_z = of_z.sum(axis=0)
        of_trunk = pullback(of_z)[0]
    else:
        of_trunk = stack_objectives([pullback(row)[0] for row in of_z])
    if measure is not False:
        seen |= jax.lax.cond(
            measure,
            lambda: _raw(each, pullback, params, z, weights),
            lambda: _unmeasured(params, weights),
        )
    return _with({"head": of_head}, of_trunk), state, seen


def trace(seen: dict[str, jax.Array], opt_state: Any) -> Trace:
    """A step's trace from what `gradients` saw and the optimizer's new state."""
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
    return Trace(gates=mean_gates(opt_state, len(losses)), **(empty | seen))


def mean_gates(opt_state: Any, number: int) -> jax.Array:
    """(K, G): the mean gate of each layer, in name order; G = 0 without a gate."""
    rows = {}
    for state in gate_states(opt_state):
        for name, gate in state.gates.items():
            rows[name] = gate.reshape(gate.shape[0], -1).mean(axis=1)
    if not rows:
        return jnp.zeros((number, 0), jnp.float32)
    return jnp.stack([rows[name] for name in sorted(rows)], axis=1)


def gate_states(opt_state: Any) -> list[SoftGateState]:
    """The soft gates' states anywhere in an optimizer's."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, SoftGateState))
    return [leaf for leaf in leaves if isinstance(leaf, SoftGateState)]


def layer_names(params: dict[str, Any]) -> tuple[str, ...]:
    """Of the L parameter tensors, in the trace's order."""
    return tuple(named_leaves(params))


def _coordinate(of_z, z, reference, batch, coordination, scale):
    settings, _, state, strength, _ = coordination
    changed, state, info = features.coordinate_gradients(
        of_z,
        z,
        reference,
        batch.labeled_mask,
        state,
        aga_weight=settings.aga_weight / scale,
        eep_weight=settings.eep_weight,
        mode=settings.mode,
        max_projection=settings.max_projection,
        normalize=settings.normalize,
        supervised=SUPERVISED,
        unsupervised=UNSUPERVISED,
    )
    if settings.decay_epochs:
        changed = of_z + strength * (changed - of_z)
    return changed, state, info


def _raw(each, pullback, params, z, weights) -> dict[str, jax.Array]:
    """Of the objectives' gradients as they are, before any coordination."""
    _, (of_head, of_z) = each(params["head"], z)
    of_trunk = stack_objectives([pullback(row)[0] for row in of_z])
    both = _with({"head": of_head}, of_trunk)
    norms, cosines = [], []
    for leaf in named_leaves(both).values():
        flat = leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)
        length = jnp.sqrt(jnp.sum(flat**2, axis=1))
        norms.append(length)
        dot = jnp.sum(flat[SUPERVISED] * flat[UNSUPERVISED])
        product = length[SUPERVISED] * length[UNSUPERVISED]
        cosines.append(jnp.where(product > 0, dot / product, jnp.nan))
    # As published: of the trained blocks, with the loss weights. No block, no angle.
    rows = [
        jax.tree.map(lambda leaf, k=k: weights[k] * leaf[k], of_trunk)
        for k in (SUPERVISED, UNSUPERVISED)
    ]
    deviation = jnp.float32(jnp.nan)
    if jax.tree.leaves(of_trunk):
        deviation = diagnostics.gradient_deviation(*rows)
    return {
        "gradient_deviation": deviation,
        "gradient_norms": jnp.stack(norms, axis=1),
        "cosines": jnp.stack(cosines),
    }


def _unmeasured(params, weights) -> dict[str, jax.Array]:
    layers = len(layer_names(params))
    return {
        "gradient_deviation": jnp.float32(jnp.nan),
        "gradient_norms": jnp.full((len(weights), layers), jnp.nan, jnp.float32),
        "cosines": jnp.full(layers, jnp.nan, jnp.float32),
    }


def _with(params: dict[str, Any], blocks: Any) -> dict[str, Any]:
    """The parameters with these trained blocks; without the entry where none train."""
    return {"backbone": blocks, **_less(params)} if blocks else _less(params)


def _less(params: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in params.items() if name != "backbone"}


def _scale_rows(tree: Any, weights: jax.Array) -> Any:
    return jax.tree.map(
        lambda leaf: leaf * weights.reshape(-1, *[1] * (leaf.ndim - 1)), tree
    )
