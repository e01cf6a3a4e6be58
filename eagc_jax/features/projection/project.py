"""Elastic projection: a share of one gradient's direction is taken out of the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    check_num_objectives,
    check_objective_axis,
    check_position,
    check_same_names,
)
from eagc_jax._shards import AxisName, check_averaged, check_axis_name, max_leaves
from eagc_jax._states import check_like, check_state
from eagc_jax._trees import named_leaves, named_specs, select
from eagc_jax.blocks import Granularity
from eagc_jax.features.projection.measure import measure
from eagc_jax.features.projection.options import DirectionEnergy, Options, check_options
from eagc_jax.features.projection.state import (
    ElasticProjectionState,
    initial_state,
    track,
)
from eagc_jax.features.projection.weights import (
    coefficient_of,
    energies_of,
    projected_leaf,
    spread,
    weight_of,
)
from eagc_jax.objectives import AssessedUpdates
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


def elastic_projection(
    num_objectives: int,
    *,
    supervised: int = 0,
    eep_weight: jax.typing.ArrayLike = 0.5,
    granularity: Granularity = "tensor",
    only_conflict: bool = False,
    energy: DirectionEnergy = "running",
    max_projection: jax.typing.ArrayLike | None = 1.0,
    direction_decay: jax.typing.ArrayLike = 0.9,
    reference_decay: jax.typing.ArrayLike = 0.95,
    axis_name: AxisName = None,
    param_specs: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes a share of the supervised direction out of the other objectives' gradients.

    The published coordinator (:func:`eagc_jax.features.coordinate`) at the parameters,
    without a conceptor. Per block, with s the supervised objective and k any other:

    .. math::

      g_k &\leftarrow g_k - w_k \frac{\langle g_k, g_s \rangle}{\lVert g_s \rVert^2} g_s
      \\ w_k &= \min(\lambda_p\,\mathrm{clip}(1 - e_k / \mu, 0, 1),\ w_{max}) \\
      e_k &= \cos^2(g_k, d), \qquad \mu = \text{running mean of } e_s

    There a feature's energy is its share in the subspace of labeled features, and
    :math:`\mu` that of a labeled feature. Here the subspace is the supervised
    objective's running direction d (of the steps before), a conceptor of rank one, and
    :math:`\mu` the share that a supervised gradient itself has there: low where these
    are noisy. So, as in the paper, what is foreign to the supervised subspace moves less
    inside it, and what lies in it as much as the supervised gradient does is left alone:
    it learns the same. The supervised gradient never changes. In the first step, and
    where a block has had no supervised gradient, nothing is projected.

    With ``energy=None`` the weight is :math:`\min(\lambda_p, w_{max})`; then
    ``eep_weight=1, only_conflict=True`` is PCGrad's projection of all others against
    the supervised gradient, one-sided and without its random order (A-GEM).

    Put it first in the chain, before ``eagc()`` or an aggregator; leaves come and go as
    ``(K, *shape)``. Two or three passes over the gradients; memory for
    ``energy="running"``: one float32 copy of the parameters.

    Args:
      num_objectives: K, a Python int.
      supervised: the objective s.
      eep_weight: lambda_p >= 0.
      granularity: what a block is: "global", "tensor", "channel" or a function, as in
        :func:`eagc_jax.assess_energy`.
      only_conflict: whether to project only where :math:`\langle g_k, g_s \rangle < 0`.
      energy: "running", as above; "current", with d the supervised gradient of this
        step, so that :math:`\mu = 1` and :math:`1 - e_k / \mu` is the squared sine of
        the angle, and nothing is remembered; None for no energy.
      max_projection: :math:`w_{max}`; above 1 the component changes its sign. None for
        no cap.
      direction_decay: decay of d in [0, 1).
      reference_decay: decay of mu in [0, 1); averages are bias-corrected.
      axis_name: as in :func:`eagc_jax.assess_energy`.
      param_specs: the same.

    Returns:
      A transformation from leaves ``(K, *shape)`` to the same. Where gradients are not
      finite they pass as they are, and averages keep their values.

    Raises:
      ValueError: bad arguments (at once); updates without an objective axis or behind
        ``assess_energy`` (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import elastic_projection, sum_objectives
      >>> project = elastic_projection(2, eep_weight=1.0, energy=None, only_conflict=True)
      >>> tx = optax.chain(project, sum_objectives(), optax.sgd(1.0))
      >>> params = {"w": jnp.zeros(2)}
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-3.0, 1.0]])}  # they conflict
      >>> tx.update(grads, tx.init(params), params)[0]["w"]
      Array([-1., -1.], dtype=float32)

    References:
      EAGC, CVPR 2026, arXiv 2604.14176, for EEP at features; Yu et al., *Gradient surgery
      for multi-task learning*, 2020; Chaudhry et al., *Efficient lifelong learning with
      A-GEM*, 2019.
    """
    number = check_num_objectives(num_objectives)
    options = Options(
        supervised=check_position("supervised", supervised, number),
        eep_weight=eep_weight,
        max_projection=max_projection,
        only_conflict=only_conflict,
        energy=energy,
        direction_decay=direction_decay,
        reference_decay=reference_decay,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    check_options(options, granularity)

    def init_fn(params: Params) -> OptState:
        return initial_state(params, number, granularity, options)

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        if isinstance(updates, AssessedUpdates):
            raise ValueError(
                "elastic_projection got what assess_energy returns: put it before "
                "assess_energy (or eagc), so that energies are those of what is applied."
            )
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            return updates, state
        check_objective_axis(updates, number, params)
        leaves = named_leaves(updates)
        check_averaged(updates, params, options.names)
        layout = blocks_lib.layout_of_updates(
            granularity, leaves, options.names, options.specs
        )
        check_state(state, ElasticProjectionState, number, "weights")
        shown, kept = dict(layout.shown_spec()), blocks_lib.spec_of(state.weights)
        check_same_names(shown, kept, "updates", "state")
        check_like(state, init_fn, jax.tree.map(lambda leaf: leaf[0], updates))
        direction = named_leaves(state.direction)  # none unless it is kept
        found = measure(leaves, direction, layout, options)
        squares = list(found.square.values())
        bad = [jnp.any(~jnp.isfinite(x)).astype(jnp.int32) for x in squares]
        advance = max_leaves(bad, squares, options.names) == 0
        energies, mu, average, visits = energies_of(found, state, advance, options)
        weights = {
            group: weight_of(found.inner[group], energies[group], mu[group], options)
            for group in energies
        }
        coefficients = {
            group: coefficient_of(weights[group], found, group, options)
            for group in weights
        }
        by_leaf = spread(coefficients, layout)
        projected = [
            projected_leaf(leaf, by_leaf[name], found.units, options.supervised)
            for name, leaf in leaves.items()
        ]
        shown = layout.show(weights), layout.show(energies)
        state = ElasticProjectionState(
            weights=select(advance, shown[0], state.weights),
            energies=select(advance, shown[1], state.energies),
            average=average,
            visits=visits,
            direction=track(updates, state.direction, advance, options),
            count=jnp.where(advance, optax.safe_increment(state.count), state.count),
        )
        return jax.tree.unflatten(jax.tree.structure(updates), projected), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
