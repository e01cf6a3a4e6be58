"""One training step: objectives at the feature, coordination, gradients.

The model is cut where the paper coordinates, at the feature. The objectives are
differentiated through the heads down to the feature; there their gradients may be
edited; from there they are pulled back through the trained part below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax import features
from eagc_jax.gcd.methods.base import Batch, Method
from eagc_jax.gcd.training import measures
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination
from eagc_jax.gradients import value_and_grads
from eagc_jax.objectives import stack_objectives
from eagc_jax.typing import Params, PyTree, Updates


class Coordination(NamedTuple):
    """What the feature coordinator needs in a step."""

    settings: FeatureCoordination  # static
    reference: Params  # the reference model's trained part below the feature
    state: features.CoordinatorState
    strength: jax.Array  # scalar in [0, 1] that multiplies what is done
    features: jax.Array | None = None  # the reference model's, where at hand: (2B, D)


class Problem(NamedTuple):
    """What a step's compilation depends on."""

    method: Method
    rebuild: Callable[[Params], DiscoveryModel]  # model of given trainable parameters
    summed: bool  # one backward pass of the weighted sum instead of K
    warm: bool = False  # the method's warm objectives


class Found(NamedTuple):
    """What a step gives the optimizer, the next step and the trace."""

    gradients: Updates  # leaves (K, *shape); (*shape), the weighted sum's, where summed
    coordinator: features.CoordinatorState | None
    method_state: PyTree
    seen: dict[str, jax.Array]  # parts of the trace


class _Cut(NamedTuple):
    """The model cut at the feature, for one batch."""

    features: jax.Array  # (2B, width)
    # cotangent of the feature -> below's gradient
    pull_back: Callable[[jax.Array], Updates]
    losses_of: Callable[[Params, jax.Array], tuple[jax.Array, PyTree]]
    head: Params  # parameters above
    weights: jax.Array  # (K,)


class _Gradients(NamedTuple):
    """Of the objectives at the cut: leaves (K, ...), or of their weighted sum."""

    head: Updates
    feature: jax.Array  # (K, 2B, width) or (2B, width)


def gradients(
    problem: Problem,
    params: dict[str, Params],
    tokens: PyTree,
    batch: Batch,
    coordination: Coordination | None,
    measure: jax.Array | bool,
    method_state: PyTree = (),
) -> Found:
    """Gradients of the objectives and what the trace is made of.

    Args:
      problem: method and model.
      params: {"head": heads} and what trains below the feature, if anything does.
      tokens: two views after the frozen prefix, axis 0 (2B,).
      batch: labels, mask, epoch.
      coordination: at the feature, or None.
      measure: whether to measure the raw gradients in this step; False: never.
      method_state: the method's.
    """
    cut = _cut(problem, params, tokens, batch, method_state)
    split = not problem.summed or (
        coordination is not None and coordination.settings.mode == "unsupervised_only"
    )
    (losses, method_state), found = (_by_objective if split else _of_the_sum)(cut)
    raw = found if split else None
    if problem.summed and split:
        found = _weighted(found, cut.weights)
    seen: dict[str, jax.Array] = {"losses": losses}
    state = None
    if coordination is not None:
        of_z, state, more = _coordinated(
            problem, params, tokens, batch, coordination, cut, found.feature
        )
        found = found._replace(feature=of_z)
        seen |= more
    if problem.summed and split:
        found = jax.tree.map(lambda leaf: leaf.sum(axis=0), found)
    below = _below(cut, found, problem.summed)
    if measure is not False:
        # By objective and without coordination the gradients are the raw ones already.
        ready = None if problem.summed or coordination is not None else below
        seen |= _measured(problem, params, cut, raw, ready, measure)
    return Found(join(below, found.head), state, method_state, seen)


def below_of(params: dict[str, Params]) -> dict[str, Params]:
    """The parameters below the feature; empty where heads alone train."""
    return {name: part for name, part in params.items() if name != "head"}


def join(below: dict[str, Params], head: Params) -> dict[str, Params]:
    """All parameters (or their gradients) again."""
    return {**below, "head": head}


def _cut(
    problem: Problem,
    params: dict[str, Params],
    tokens: PyTree,
    batch: Batch,
    method_state: PyTree,
) -> _Cut:
    method = problem.method
    objectives = method.warm_objectives if problem.warm else method.objectives

    def features_of(below: dict[str, Params]) -> jax.Array:
        return problem.rebuild(join(below, params["head"])).features(tokens)

    def losses_of(head_params: Params, z: jax.Array) -> tuple[jax.Array, PyTree]:
        head = problem.rebuild(join(below_of(params), head_params)).head
        losses, state = objectives(head, method_state, z, batch)
        return jnp.stack(losses), state

    z, pullback = jax.vjp(features_of, below_of(params))
    weights = jnp.asarray(method.objective_weights, jnp.float32)
    return _Cut(z, lambda row: pullback(row)[0], losses_of, params["head"], weights)


def _by_objective(cut: _Cut) -> tuple[tuple[jax.Array, PyTree], _Gradients]:
    each = value_and_grads(cut.losses_of, argnums=(0, 1), has_aux=True)
    found, of_both = each(cut.head, cut.features)
    return found, _Gradients(*of_both)


def _of_the_sum(cut: _Cut) -> tuple[tuple[jax.Array, PyTree], _Gradients]:
    def total(head: Params, z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
        losses, state = cut.losses_of(head, z)
        return cut.weights @ losses, (losses, state)

    (_, found), of_both = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
        cut.head, cut.features
    )
    return found, _Gradients(*of_both)


def _weighted(found: _Gradients, weights: jax.Array) -> _Gradients:
    return jax.tree.map(
        lambda leaf: leaf * weights.reshape(-1, *[1] * (leaf.ndim - 1)), found
    )


def _below(cut: _Cut, found: _Gradients, summed: bool) -> Updates:
    if summed:
        return cut.pull_back(found.feature)
    return stack_objectives([cut.pull_back(row) for row in found.feature])


def _coordinated(
    problem: Problem,
    params: dict[str, Params],
    tokens: PyTree,
    batch: Batch,
    coordination: Coordination,
    cut: _Cut,
    of_z: jax.Array,
) -> tuple[jax.Array, features.CoordinatorState, dict[str, jax.Array]]:
    """The feature's gradient, edited; the coordinator's state; parts of the trace."""
    method, settings = problem.method, coordination.settings
    labeled = method.objective_roles.index("labeled")
    unlabeled = [k for k, r in enumerate(method.objective_roles) if r == "unlabeled"]
    # AGA's strength is that on the weighted sum; the aggregator will apply the
    # labeled objective's weight to what is added here.
    scale = 1.0 if problem.summed else method.objective_weights[labeled]
    reference = coordination.features
    if reference is None:  # the frozen prefix is shared: the trained part alone
        model = problem.rebuild(join(coordination.reference, params["head"]))
        reference = jax.lax.stop_gradient(model.features(tokens))
    changed, state, info = features.coordinate_gradients(
        of_z,
        cut.features,
        reference,
        batch.labeled_mask,
        coordination.state,
        aga_weight=settings.aga_weight / scale,
        eep_weight=settings.eep_weight,
        mode=settings.mode,
        max_projection=settings.max_projection,
        normalize=settings.normalize,
        supervised=labeled,
        unsupervised=tuple(unlabeled),
    )
    if settings.decay_epochs:
        changed = of_z + coordination.strength * (changed - of_z)
    assert info.removed_share is not None  # of gradients they are always known
    assert info.added_share is not None
    return (
        changed,
        state,
        {
            "labeled_reference": state.labeled_reference,
            "projection_quantiles": info.quantiles,
            "removed": info.removed_share,
            "added": info.added_share,
        },
    )


def _measured(
    problem: Problem,
    params: dict[str, Params],
    cut: _Cut,
    raw: _Gradients | None,
    ready: Updates | None,
    measure: jax.Array | bool,
) -> dict[str, jax.Array]:
    """Of the objectives' gradients as they are, before any coordination."""
    roles = problem.method.objective_roles

    def now() -> dict[str, jax.Array]:
        found = _by_objective(cut)[1] if raw is None else raw
        below = _below(cut, found, summed=False) if ready is None else ready
        return measures.of_gradients(below, found.head, cut.weights, roles)

    return jax.lax.cond(measure, now, lambda: measures.nothing(params, cut.weights))
