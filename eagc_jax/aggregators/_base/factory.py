"""The transformation: Gram matrix, weighting, weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import optax

from eagc_jax._checks import (
    Nonfinite,
    check_mask,
    check_num_objectives,
    check_objective_axis,
    check_preference,
)
from eagc_jax._shards import AxisName, check_averaged, check_axis_name
from eagc_jax._trees import named_leaves
from eagc_jax.aggregators._base.apply import applied
from eagc_jax.aggregators._base.decide import (
    Decided,
    Step,
    as_repeated,
    decide,
    layout_for,
    repeat,
)
from eagc_jax.aggregators._base.options import Options, Rescale, check_options
from eagc_jax.aggregators._base.state import check_state_of, initial_state
from eagc_jax.aggregators._signature import shows_options_of
from eagc_jax.aggregators._weighting import Weighting
from eagc_jax.blocks import Granularity
from eagc_jax.gram import Metric
from eagc_jax.typing import Inputs, OptState, Params, Updates


def from_weighting(
    num_objectives: int,
    weighting: Weighting,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    rescale: Rescale = "native",
    granularity: Granularity = "global",
    weight_smoothing: float = 0.0,
    gram_smoothing: float = 0.0,
    recompute_every: int = 1,
    nonfinite: Nonfinite = "propagate",
    certify: bool = False,
    seed: int = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""An aggregator from a weighting: Gram matrix, weights, weighted sum.

    Every factory in :mod:`eagc_jax.aggregators` that works on the Gram matrix calls
    this and takes the same options:

    Args:
      num_objectives: K, a Python int.
      weighting: the method.
      preference: K numbers >= 0 in proportion to how much each objective counts, or
        None for equal ones. What it means is the method's: its docstring says.
      rescale: the length of the update. "native" is the method's own; "sum" and "mean"
        bring methods to that convention by a constant factor (K, or 1/K), so that
        the learning rate can stay when the method changes; methods whose length isn't
        the gradients' (Nash) are given the norm of the mean, times K for "sum".
        "norm_of_mean" gives every update the norm of the preference-weighted mean; an
        update that is 0 to rounding stays as it is.
      granularity: "global" (one set of weights), "tensor", "channel", or a function:
        weights per block, all solved in one batched call.
      weight_smoothing: decay in [0, 1) of a bias-corrected average of the weights.
      gram_smoothing: the same for the Gram matrix in front of the method.
      recompute_every: solve at every n-th step, apply the last weights in between.
      nonfinite: an objective with a NaN or an infinity in its gradient: "propagate" (the
        update is NaN everywhere, the state stays), "skip_objective" (it is left out of
        this step), "skip_update" (the update is 0, the state stays). Counted always.
      certify: check that the update conflicts with no objective, and where it does
        project it on the cone of those that don't; counted in ``fallbacks``.
      seed: of a random method's key.
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which parameters
        may be split: inner products are summed over their devices. Gradients are
        averaged over the axes that split the batch before they come here. Under ``jit``
        leave it None: the compiler does it.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``, in the leaves' own
      dtype; its state is an :class:`AggregateState`. ``update`` takes two more keyword
      arguments: ``active_mask``, ``(K,)`` bool, False for objectives that this batch
      doesn't have (weight 0, state kept, whatever their gradients hold); and ``value``,
      the ``(K,)`` losses, for methods that need them. :func:`eagc_jax.optimizer_aware`
      passes a third, ``metric``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).
    """
    options = Options(
        check_num_objectives(num_objectives),
        check_preference(preference, int(num_objectives)),
        rescale,
        granularity,
        weight_smoothing,
        gram_smoothing,
        recompute_every,
        nonfinite,
        certify,
        seed,
        check_axis_name(axis_name),
    )
    check_options(options, weighting)

    def init_fn(params: Params) -> OptState:
        return initial_state(params, options, weighting)

    def decided_update(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        active_mask: jax.typing.ArrayLike | None = None,
        value: jax.typing.ArrayLike | None = None,
        metric: Metric | None = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState, Decided | None]:
        check_objective_axis(updates, options.number, params)
        leaves = named_leaves(updates)
        if not leaves:  # an empty group of optax.partition
            return updates, state, None
        check_averaged(updates, params, options.names)
        layout = layout_for(leaves, options)
        check_state_of(layout, state, options.number)
        if weighting.needs_values and value is None:
            raise ValueError(
                f"{weighting.name} needs the losses: call update(..., value=losses) with "
                f"an array of shape ({options.number},)."
            )
        mask = check_mask(active_mask, options.number)
        extra = {"values": value, **weighting.reads(extra_args)}
        if metric is not None and extra.get("cross_gram") is not None:
            raise ValueError(
                f"{weighting.name} takes inner products of further batches, which aren't "
                "in the optimizer's metric: use it without them in optimizer_aware."
            )
        step = Step(leaves, layout, mask, extra, options.names, metric)
        if recompute_every == 1:
            decided = decide(step, state, options, weighting)
        else:
            decided = jax.lax.cond(
                state.count % recompute_every == 0,
                lambda: as_repeated(decide(step, state, options, weighting)),
                lambda: repeat(step, state),
            )
        return *applied(updates, step, decided, state, options), decided

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        return decided_update(updates, state, params, **extra_args)[:2]

    # What tells optimizer_aware that this takes a metric, and over which axes it sums;
    # and the same update, with what it was made of.
    update_fn.takes_metric = options.names  # pyright: ignore[reportFunctionMemberAccess]
    update_fn.decided = decided_update  # pyright: ignore[reportFunctionMemberAccess]
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


shows_options = shows_options_of(from_weighting)
