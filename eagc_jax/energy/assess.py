"""Energy assessment: a transformation that hands energies on with the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    Nonfinite,
    check_num_objectives,
    check_objective_axis,
    check_same_names,
    check_same_shapes,
    check_weights,
)
from eagc_jax._shards import AxisName, check_averaged, check_axis_name
from eagc_jax._states import check_state
from eagc_jax._trees import counted, named_leaves, named_specs, select
from eagc_jax.blocks import Granularity
from eagc_jax.energy.averages import bias_corrected, effective_update, track
from eagc_jax.energy.float32 import bounded, square
from eagc_jax.energy.options import (
    ALIGNMENTS,
    Energy,
    Options,
    Scale,
    check_energy,
    check_options,
)
from eagc_jax.energy.state import AssessEnergyState, check_averages, initial_state
from eagc_jax.energy.statistics import Inputs
from eagc_jax.energy.step import finish, start
from eagc_jax.objectives import AssessedUpdates
from eagc_jax.typing import OptState, Params, PyTree, Updates


def assess_energy(
    num_objectives: int,
    *,
    energy: Energy = "magnitude",
    granularity: Granularity = "channel",
    scale: Scale = "objective",
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
    nonfinite: Nonfinite = "propagate",
    alignment_floor: float = 0.5,
    direction_decay: float | None = 0.9,
    moment_decay: float | None = 0.999,
    eps: float = 1e-8,
    axis_name: AxisName = None,
    param_specs: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Assesses, per block of parameters, the energy of each objective's gradient.

    The first stage of :func:`eagc_jax.eagc`; the article that named EAGC calls it
    *GradientEnergyAnalyzer*. Gradients pass through unchanged; the energies travel with
    them (:class:`eagc_jax.AssessedUpdates`) to :func:`eagc_jax.soft_gate`, which must
    come next, and stay readable in the state.

    With :math:`R_b` the mean over block :math:`b`, :math:`\theta` the parameters,
    :math:`M` a running average of the effective update :math:`P=\sum_k w_k g_k` and
    :math:`c=R_b(g_kM)/\sqrt{R_b(g_k^2)R_b(M^2)}` the cosine with it, the energies are

    ================= ====================================================================
    ``"magnitude"``   :math:`R_b(g_k^2)`
    ``"progress"``    :math:`f+(1-f)(1+c)/2`: along the running direction
    ``"exploratory"`` :math:`f+(1-f)(1-c^2)`: across it
    ``"sensitivity"`` :math:`R_b((g_k\theta)^2)`, the SNIP saliency; also ``"snip"``
    ``"fisher"``      :math:`R_b(g_k^2/(\hat v+\epsilon))`, v a running mean of P squared
    ================= ====================================================================

    with :math:`f` the ``alignment_floor``. A mapping mixes them: the log energy is the
    sum of coefficient times log energy. Magnitude, sensitivity and Fisher energies are
    relative to a reference: the objective's own mean over the shared leaves, those that
    at least two objectives reach (``scale="objective"``: invariant to rescaling a loss),
    or the mean of these over objectives (``scale="global"``). The reference is that of
    the step, never an average: an averaged one can be pumped up by spikes.

    Args:
      num_objectives: K, a Python int.
      energy: a name from the table, or a mapping from names to coefficients >= 0.
      granularity: "global", "tensor", "channel" (one block per output unit or filter,
        the last axis; a vector is one block), "element", or a function ``(path, shape)``
        to the axes that one block spans, for other layouts: ``lambda path, shape:
        tuple(range(1, len(shape)))`` where the output unit comes first.
      scale: "objective" or "global".
      weights: K loss weights >= 0, or None for ones. An objective of weight 0 takes no
        part.
      nonfinite: what to do with an objective whose gradient has a NaN or an infinity
        (or squares above the float32 range, beyond 1.8e19): "propagate" (the update is
        NaN everywhere, for ``optax.apply_if_finite`` behind it), "skip_objective" (it is
        left out in this step) or "skip_update" (the update is 0). Averages and gates are
        never touched by it; the state counts it.
      alignment_floor: f in the table, in (0, 1].
      direction_decay: decay of M in [0, 1); None to take M from the keyword argument
        ``direction`` of ``update`` (Adam's ``mu``, say) and keep none.
      moment_decay: the same for v and the keyword argument ``second_moment``.
      eps: added to relative energies before the logarithm, > 0.
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which parameters
        may be split: sums are made over their devices (numerators and denominators, not
        the quotients). Under ``jit`` leave it None: the compiler does it.
      param_specs: the parameters' ``PartitionSpec`` tree, as ``shard_map`` got it; needed
        with ``axis_name`` where a block spans some axes of a split leaf and not others
        ("channel"), to know which of them are split.

    Returns:
      A transformation whose ``update`` takes leaves ``(K, *param.shape)`` and returns
      ``AssessedUpdates``. Energies are float32 whatever the leaves' dtype. Gradients
      below about 1e-19 square to 0 in float32 and count as absent. How long spikes
      are remembered: see :func:`eagc_jax.eagc`.

    Raises:
      ValueError: bad arguments (at once); a missing objective axis, trees that differ,
        "sensitivity" without params (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import assess_energy, sum_objectives
      >>> tx = optax.chain(assess_energy(2, granularity="tensor"), sum_objectives())
      >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
      >>> grads = {"a": jnp.array([[3.0, 3.0], [1.0, 1.0]]),
      ...          "b": jnp.array([[1.0, 1.0], [1.0, 1.0]])}
      >>> _, state = tx.update(grads, tx.init(params))
      >>> optax.tree.get(state, "energies")["a"].round(2)
      Array([[1.8],
             [1. ]], dtype=float32)

    References:
      Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, 2019 (sensitivity);
      Zheng et al., `EAGC <https://arxiv.org/abs/2604.14176>`_, 2026 (the vocabulary).
    """
    number = check_num_objectives(num_objectives)
    options = Options(
        mixture=check_energy(energy),
        granularity=granularity,
        scale=scale,
        weights=check_weights(weights, number),
        alignment_floor=alignment_floor,
        eps=eps,
        nonfinite=nonfinite,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    check_options(options, direction_decay, moment_decay)
    aligns = any(name in options.mixture for name in ALIGNMENTS)
    keeps_direction = aligns and direction_decay is not None
    keeps_moment = "fisher" in options.mixture and moment_decay is not None

    def init_fn(params: Params) -> OptState:
        return initial_state(
            params,
            options,
            number,
            keeps_direction=keeps_direction,
            keeps_moment=keeps_moment,
        )

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        direction: PyTree = None,
        second_moment: PyTree = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState]:
        del extra_args
        check_objective_axis(updates, number, params)
        check_state(state, AssessEnergyState, number, "nonfinite_count")
        known = blocks_lib.spec_of(state.gradient_rms)
        check_same_names(named_leaves(updates), known, "updates", "state")
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            nothing = jnp.ones([], jnp.float32), jnp.ones([], bool)
            return AssessedUpdates(updates, {}, {}, *nothing), state
        check_averaged(updates, params, options.names)
        kept = {"direction": keeps_direction, "second_moment": keeps_moment}
        check_averages(state, named_leaves(updates), kept)
        step = start(updates, options)
        count = jnp.where(step.advance, optax.safe_increment(state.count), state.count)
        new_direction, new_moment = (), ()
        if keeps_direction or keeps_moment:
            effective = effective_update(step.updates, options.weights)
        if keeps_direction:
            assert direction_decay is not None
            direction = state.direction
            new_direction = track(direction, effective, direction_decay, step.advance)
        if keeps_moment:
            assert moment_decay is not None
            squared = jax.tree.map(lambda p: bounded(square(p)), effective)
            new_moment = track(state.second_moment, squared, moment_decay, step.advance)
            second_moment = bias_corrected(new_moment, moment_decay, count)
        inputs = Inputs(params, direction, second_moment)
        assessed, energies, rms = finish(updates, step, options, inputs)
        found, kept = (blocks_lib.spec_of(e) for e in (energies, state.energies))
        check_same_shapes(found, kept, number)
        blocks_lib.check_places(state.energies, energies.places)
        return assessed, AssessEnergyState(
            energies=select(step.advance, energies, state.energies),
            gradient_rms=select(step.advance, rms, state.gradient_rms),
            nonfinite_count=counted(state.nonfinite_count, ~step.finite),
            direction=new_direction,
            second_moment=new_moment,
            count=count,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
