"""The transformation: each objective rescaled, per block, by a gate on its energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_num_objectives, check_objective_axis, check_weights
from eagc_jax._shards import AxisName, check_axis_name
from eagc_jax._trees import named_leaves, named_specs, select
from eagc_jax.blocks import GLOBAL, Granularity
from eagc_jax.energy import assess_magnitude
from eagc_jax.gating.guard import guard
from eagc_jax.gating.logits import gate_of, ramp, remember
from eagc_jax.gating.options import Options, check_options, is_memoryless
from eagc_jax.gating.state import (
    SoftGateState,
    check_assessed,
    check_memory,
    initial_state,
)
from eagc_jax.gating.switches import count_switches
from eagc_jax.gram.sums import materialized, rescaled
from eagc_jax.objectives import AssessedUpdates
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


def soft_gate(
    num_objectives: int,
    *,
    granularity: Granularity = "channel",
    temperature: float | Callable[[jax.Array], jax.typing.ArrayLike] = 1.0,
    floor: float = 0.2,
    smoothing: float = 0.9,
    hysteresis: float = 0.0,
    slew: float | None = None,
    warmup_steps: int = 100,
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
    descent_guard: float | None = None,
    axis_name: AxisName = None,
    param_specs: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales each objective's gradient, per block, by a gate on its energy.

    The second stage of :func:`eagc_jax.eagc`; the article that named EAGC calls it
    *DynamicCoordinator*. Per block, the weight budget :math:`W` of the objectives that
    reach it is shared out by entropy-regularised energy maximisation. With the prior
    :math:`\pi_k = w_k / W`, log energies :math:`\ell_k`, temperature :math:`\tau`,
    floor :math:`\gamma`, smoothing :math:`\beta`:

    .. math::

      y_k &= (\ell_k - \textstyle\sum_j \pi_j \ell_j) / \tau \\
      h_k &= \text{bias-corrected average of } y_k, \text{ then hysteresis, then slew} \\
      p &= \mathrm{softmax}(\log \pi + h) \\
      a_k &= W (\pi_k + (1 - \gamma)(p_k - \pi_k)), \qquad g_k \leftarrow a_k g_k

    For K = 2 and equal weights, p is the sigmoid of the log energy ratio over
    :math:`\tau`. Always :math:`\sum_k a_k = W` and :math:`\gamma w_k \le a_k \le
    \gamma w_k + (1-\gamma) W`; equal energies give :math:`a_k = w_k` exactly: the plain
    weighted sum. An objective whose gradient is 0 in a block (a head that it doesn't
    use) takes no part there, and the others keep their weights.

    Args:
      num_objectives: K, a Python int.
      granularity: as in :func:`eagc_jax.assess_energy`, and the same.
      temperature: tau > 0 (``inf`` for the plain sum), or a schedule of the step. Small
        ones switch, and can make a stable learning rate unstable: see
        :func:`eagc_jax.minimum_temperature`.
      floor: gamma in [0, 1], the share of its weight that no objective can lose; 1 is the
        plain sum.
      smoothing: beta in [0, 1), decay of the average of logits. 0 for none.
      hysteresis: >= 0, in logits: the gate follows only once the average has moved by
        more than this (the "play" operator). Helps against noise; large values at a small
        temperature can themselves oscillate.
      slew: the most that a logit may move in one step, > 0; None for no limit.
      warmup_steps: steps over which ``1 - floor`` grows from 0; the first is plain.
      weights: K loss weights >= 0, or None for ones.
      descent_guard: eta in [0, 1]: per block, the update's inner product with the plain
        weighted sum P is kept at ``eta * |P|^2`` or more by blending the gates towards
        the weights. None for no guard; it costs one more pass.
      axis_name: as in :func:`eagc_jax.assess_energy`, and the same.
      param_specs: the same.

    Returns:
      A transformation from ``AssessedUpdates`` to leaves ``(K, *shape)``, each in its
      own dtype; gates are float32. Given bare updates it assesses magnitudes itself.
      A gate may exceed 1, and take a float16 entry beyond 65504; bfloat16 has the room.

    Raises:
      ValueError: bad arguments (at once); updates without an objective axis, or assessed
        at another granularity (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import assess_energy, soft_gate, sum_objectives
      >>> tx = optax.chain(
      ...   assess_energy(2, granularity="tensor"),
      ...   soft_gate(2, granularity="tensor", floor=0.0, warmup_steps=0),
      ...   sum_objectives())
      >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
      >>> grads = {"a": jnp.array([[3.0, 3.0], [1.0, 1.0]]),
      ...          "b": jnp.array([[1.0, 1.0], [1.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init(params))
      >>> optax.tree.get(state, "gates")["a"].round(2)  # energies 1.8 and 1.0
      Array([[1.29],
             [0.71]], dtype=float32)
    """
    number = check_num_objectives(num_objectives)
    options = Options(
        weights=check_weights(weights, number),
        floor=floor,
        smoothing=smoothing,
        hysteresis=hysteresis,
        slew=slew,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    blocks_lib.check_granularity(granularity)
    check_options(options, temperature, warmup_steps, descent_guard)
    keeps_memory = not (granularity == "element" and is_memoryless(options))

    def init_fn(params: Params) -> OptState:
        return initial_state(params, options, granularity, keeps_memory)

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        bare = updates.updates if isinstance(updates, AssessedUpdates) else updates
        if not jax.tree.leaves(bare):  # an empty group of optax.partition
            return bare, state
        if not isinstance(updates, AssessedUpdates):
            check_objective_axis(updates, number, params)
            updates = assess_magnitude(
                updates, options.weights, granularity, options.names, options.specs
            )
        leaves = named_leaves(updates.updates)
        check_objective_axis(updates.updates, number, params)
        layout = blocks_lib.layout_of_updates(
            granularity, leaves, options.names, options.specs
        )
        check_assessed(updates, state, layout)
        remembered = updates.log_energies if keeps_memory else {}
        check_memory(state, remembered, number, layout)
        tau = temperature(state.count) if callable(temperature) else temperature
        strength = (1 - jnp.asarray(floor, jnp.float32)) * ramp(
            state.count, warmup_steps
        )
        active = updates.active
        memory = {
            group: remember(value, active[group], tau, options, state.memory.get(group))
            for group, value in updates.log_energies.items()
        }
        if granularity == GLOBAL:
            # One logit for all, but in each leaf only among those that reach it.
            memory |= dict.fromkeys(layout.groups, memory[GLOBAL])
        gates = {
            group: gate_of(remembered.logits, active[group], strength, options)
            for group, remembered in memory.items()
        }
        if descent_guard is not None:
            gates = guard(gates, leaves, layout, options.weights, descent_guard)
        applied = layout.scatter(
            {
                # Of a block; where every entry is one there is nothing to compute once.
                group: gate * updates.factor
                if group in layout.alone
                else materialized(gate, updates.factor)
                for group, gate in gates.items()
            }
        )
        gated = [rescaled(leaf, applied[name]) for name, leaf in leaves.items()]
        out = jax.tree.unflatten(jax.tree.structure(updates.updates), gated)
        shown = layout.show(gates, of_nothing=options.weights)
        return out, SoftGateState(
            gates=select(updates.advance, shown, state.gates),
            switches=count_switches(state, memory, layout),
            memory={group: memory[group] for group in state.memory},
            count=jnp.where(
                updates.advance, optax.safe_increment(state.count), state.count
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
