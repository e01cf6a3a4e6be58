"""Soft gating: a smooth, bounded, sum-preserving rescaling of each objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    SHARE,
    Interval,
    check_num_objectives,
    check_number,
    check_objective_axis,
    check_same_names,
    check_same_shapes,
    check_weights,
    concrete,
)
from eagc_jax._shards import AxisName, check_axis_name
from eagc_jax._states import check_state
from eagc_jax._trees import (
    counted,
    named_leaves,
    named_specs,
    select,
    widened,
)
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity, Layout
from eagc_jax.energy import assess_magnitude
from eagc_jax.gram.sums import materialized, rescaled
from eagc_jax.objectives import (
    AssessedUpdates,
    expand_to,
    reduce_objectives,
    weighted_sum,
)

# Infinity is a value: an infinite temperature gives the plain sum.
_FROM_ZERO = Interval(0, math.inf)
_ABOVE_ZERO = Interval(0, math.inf, with_low=False)
# Logits closer than this have no order: rounding must not count as a switch.
_TIE = 1e-6


class BlockMemory(NamedTuple):
    """What the gate remembers of a group of blocks."""

    average: jax.Array  # shape=(K, leaves, *block), float32: biased mean of logits.
    visits: jax.Array  # shape=(K, leaves, *block), int32: steps that fed it.
    logits: jax.Array  # shape=(K, leaves, *block), float32: in force now.


class SoftGateState(NamedTuple):
    """What the gate decided last, and the averages behind it."""

    gates: ByLeaf
    # By leaf: the factors on each objective's gradient, shape=(K, *block), float32.
    # At granularity "element" their mean, (K,).
    switches: ByLeaf
    # By leaf, shape=(), int32: how often, over its blocks, another objective took the
    # lead. Stays 0 where nothing is remembered.
    memory: dict[str, BlockMemory]
    # By group of leaves whose blocks look alike; "global"; at granularity "element"
    # each leaf, (K, *shape), or nothing for a gate without smoothing, hysteresis, slew.
    count: jax.Array  # shape=(), int32: steps gated; drives warm-up and schedules.


class _Options(NamedTuple):
    weights: jax.Array
    floor: Any
    smoothing: Any
    hysteresis: Any
    slew: Any
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: Any = None


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
    param_specs: Any = None,
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
    options = _Options(
        weights=check_weights(weights, number),
        floor=floor,
        smoothing=smoothing,
        hysteresis=hysteresis,
        slew=slew,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    blocks_lib.check_granularity(granularity)
    _check_options(options, temperature, warmup_steps, descent_guard)
    keeps_memory = not (granularity == "element" and _is_memoryless(options))

    def init_fn(params):
        return _initial_state(params, options, granularity, keeps_memory)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if not isinstance(updates, AssessedUpdates):
            check_objective_axis(updates, number, params)
            updates = assess_magnitude(
                updates, options.weights, granularity, options.names, options.specs
            )
        if not jax.tree.leaves(updates.updates):  # an empty group of optax.partition
            return updates.updates, state
        leaves = named_leaves(updates.updates)
        check_objective_axis(updates.updates, number, params)
        layout = blocks_lib.layout_of_updates(
            granularity, leaves, options.names, options.specs
        )
        _check_assessed(updates, state, layout)
        remembered = updates.log_energies if keeps_memory else {}
        _check_memory(state, remembered, number)
        tau = temperature(state.count) if callable(temperature) else temperature
        strength = (1 - jnp.asarray(floor, jnp.float32)) * _ramp(
            state.count, warmup_steps
        )
        active = updates.active
        memory = {
            group: _remember(
                value, active[group], tau, options, state.memory.get(group)
            )
            for group, value in updates.log_energies.items()
        }
        if granularity == GLOBAL:
            # One logit for all, but in each leaf only among those that reach it.
            memory |= dict.fromkeys(layout.groups, memory[GLOBAL])
        gates = {
            group: _gate(remembered.logits, active[group], strength, options)
            for group, remembered in memory.items()
        }
        if descent_guard is not None:
            gates = _guard(gates, leaves, layout, options.weights, descent_guard)
        applied = layout.scatter(
            {group: materialized(gate, updates.factor) for group, gate in gates.items()}
        )
        gated = [rescaled(leaf, applied[name]) for name, leaf in leaves.items()]
        out = jax.tree.unflatten(jax.tree.structure(updates.updates), gated)
        shown = layout.show(gates, of_nothing=options.weights)
        return out, SoftGateState(
            gates=select(updates.advance, shown, state.gates),
            switches=_count_switches(state, memory, layout),
            memory={group: memory[group] for group in state.memory},
            count=jnp.where(
                updates.advance, optax.safe_increment(state.count), state.count
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def minimum_temperature(
    learning_rate: float, curvature: float, floor: float = 0.2
) -> float:
    r"""The temperature below which gating destabilises a stable learning rate.

    Around the balance point of two objectives of opposed gradients, a gate on absolute
    magnitudes (``scale="global"``) multiplies the curvature that gradient descent feels
    by :math:`1 + 2(1-\gamma)/\tau`. With :math:`x = \eta\Lambda` it is stable where

    .. math:: \tau > \tau_{min} = 2 (1 - \gamma) x / (2 - x).

    Proved for K = 2, equal weights, one dimension and no smoothing; on one-dimensional
    quadratics ``1.05 * tau_min`` was stable with any smoothing too. Don't count on
    smoothing to allow less.

    Args:
      learning_rate: eta > 0 of gradient descent on the weighted sum.
      curvature: Lambda > 0 of the weighted sum along the conflict.
      floor: gamma in [0, 1] as in :func:`eagc_jax.soft_gate`.

    Returns:
      tau_min; ``inf`` where ``learning_rate * curvature >= 2``: not even the plain sum
      is stable.

    Raises:
      ValueError: an argument out of its range.

    Examples:
      >>> from eagc_jax import minimum_temperature
      >>> round(minimum_temperature(learning_rate=0.1, curvature=10.0), 2)
      1.6
    """
    if not (learning_rate > 0 and curvature > 0):
        raise ValueError(
            f"learning_rate and curvature must be positive, got {learning_rate} and "
            f"{curvature}."
        )
    check_number("floor", floor, SHARE)
    x = learning_rate * curvature
    return float("inf") if x >= 2 else 2 * (1 - floor) * x / (2 - x)


# ---------------------------------------------------------------------------
# One block array: log energies -> logits -> gates
# ---------------------------------------------------------------------------


def _remember(
    log_energies: jax.Array,
    active: jax.Array,
    temperature: Any,
    options: _Options,
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
    correction = 1 - beta ** visits.astype(jnp.float32)
    smooth = average / jnp.where(visits > 0, correction, 1.0)
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


def _gate(
    logits: jax.Array, active: jax.Array, strength: jax.Array, options: _Options
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


def _over_objectives(operator: Callable, values: jax.Array) -> jax.Array:
    """``(K, ...)`` to ``(1, ...)``, which broadcasts in every mode of JAX."""
    return reduce_objectives(operator, values)[None]


def _ramp(count: jax.Array, warmup_steps: Any) -> jax.Array:
    steps = jnp.asarray(warmup_steps, jnp.float32)
    share = jnp.minimum(count.astype(jnp.float32) / jnp.maximum(steps, 1.0), 1.0)
    return jnp.where(steps > 0, share, 1.0)


# ---------------------------------------------------------------------------
# Descent guard
# ---------------------------------------------------------------------------


def _guard(
    gates: dict[str, jax.Array],
    leaves: dict[str, jax.Array],
    layout: Layout,
    weights: jax.Array,
    eta: Any,
) -> dict[str, jax.Array]:
    """Blends the gates towards the weights as far as each block needs it."""
    by_leaf = layout.scatter(gates)
    inner, square = {}, {}
    for name, leaf in leaves.items():
        wide = widened(leaf)
        plain = weighted_sum(wide, weights)
        gated = reduce_objectives(jnp.add, wide * by_leaf[name].astype(wide.dtype))
        for found, product in (
            (inner, (gated * jnp.conj(plain)).real),
            (square, (plain * jnp.conj(plain)).real),
        ):
            found[name] = product[None]
    inner, square = layout.block_means(inner), layout.block_means(square)
    if layout.granularity == GLOBAL:
        sizes = layout.sizes()[None]
        inner, square = (
            jnp.sum(layout.leaf_means(value) * sizes, axis=1, keepdims=True)
            for value in (inner, square)
        )
        blend = _blend_needed(inner, square, eta)
        return {group: _blend(gate, weights, blend) for group, gate in gates.items()}
    return {
        group: _blend(gate, weights, _blend_needed(inner[group], square[group], eta))
        for group, gate in gates.items()
    }


def _blend_needed(inner: jax.Array, square: jax.Array, eta: Any) -> jax.Array:
    short = inner < eta * square
    return jnp.where(
        short, (eta * square - inner) / jnp.where(short, square - inner, 1.0), 0.0
    )


def _blend(gate: jax.Array, weights: jax.Array, blend: jax.Array) -> jax.Array:
    return gate + blend * (expand_to(weights, gate.ndim) - gate)


# ---------------------------------------------------------------------------
# Switches
# ---------------------------------------------------------------------------


def _count_switches(
    state: SoftGateState, memory: dict[str, BlockMemory], layout: Layout
) -> ByLeaf:
    """Adds, per leaf, in how many of its blocks another objective leads than before."""
    if not state.memory:
        return state.switches
    changed = {
        group: _changed(old, memory[group]).astype(jnp.int32)[None]
        for group, old in state.memory.items()
    }
    if layout.granularity == GLOBAL:
        sums = changed[GLOBAL][0]
    else:
        sums = layout.leaf_counts(changed)
    return jax.tree.map(lambda old: old + sums, state.switches)


def _changed(old: BlockMemory, new: BlockMemory) -> jax.Array:
    leader_old, decided_old = _leader(old.logits)
    leader_new, decided_new = _leader(new.logits)
    return (leader_old != leader_new) & decided_old & decided_new


def _leader(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    top = reduce_objectives(jnp.maximum, logits)
    bottom = reduce_objectives(jnp.minimum, logits)
    leader = jnp.zeros(top.shape, jnp.int32)
    for k in range(1, logits.shape[0]):
        leader = jnp.where(logits[k] >= top, k, leader)
    return leader, top - bottom > _TIE


# ---------------------------------------------------------------------------
# Arguments and initial state
# ---------------------------------------------------------------------------


def _initial_state(
    params: Any, options: _Options, granularity: Granularity, keeps_memory: bool
) -> SoftGateState:
    weights, number = options.weights, options.weights.shape[0]
    leaves = named_leaves(params)
    layout = blocks_lib.layout_of_params(
        granularity, leaves, options.names, options.specs
    )
    count = jnp.zeros([], jnp.int32)
    if not leaves:
        memory = blocks_lib.stand_in() if keeps_memory else {}
        empty = blocks_lib.stand_in(), blocks_lib.stand_in()
        return SoftGateState(*empty, memory, count)  # type: ignore[arg-type]
    zeros = layout.zeros(leaves, number)
    shown = layout.show(zeros)
    if granularity == GLOBAL:
        zeros = {GLOBAL: jnp.zeros((number, 1), jnp.float32)}
        switches = ByLeaf.of_leaves(jnp.zeros((1,), jnp.int32), (GLOBAL,))
    else:
        none = {group: value[:1].astype(jnp.int32) for group, value in zeros.items()}
        switches = layout.show_leaves(layout.leaf_counts(none))
    # Every leaf of the state owns its buffer: a shared one could not be donated.
    memory = {
        group: BlockMemory(
            average=jnp.zeros_like(value),
            visits=jnp.zeros_like(value, dtype=jnp.int32),
            logits=jnp.zeros_like(value),
        )
        for group, value in zeros.items()
    }
    return SoftGateState(
        gates=jax.tree.map(lambda x: x + expand_to(weights, x.ndim), shown),
        switches=switches,
        memory=memory if keeps_memory else {},
        count=count,
    )


def _check_assessed(
    assessed: AssessedUpdates, state: SoftGateState, layout: Layout
) -> None:
    expected = {GLOBAL: (1,)}
    if layout.granularity != GLOBAL:
        expected = layout.group_shapes()
    found = {group: value.shape[1:] for group, value in assessed.log_energies.items()}
    if found != expected:
        raise ValueError(
            f"soft_gate has granularity {layout.granularity!r}, blocks {expected}, but "
            f"the updates were assessed at another, blocks {found}: give assess_energy "
            "and soft_gate the same granularity."
        )
    number = assessed.log_energies[next(iter(found))].shape[0]
    check_state(state, SoftGateState, number, "gates")
    shown, kept = dict(layout.shown_spec()), blocks_lib.spec_of(state.gates)
    check_same_names(shown, kept, "updates", "state")
    check_same_shapes(shown, kept, number)


def _check_memory(
    state: SoftGateState, groups: dict[str, jax.Array], number: int
) -> None:
    kept = {name: memory.logits.shape[1:] for name, memory in state.memory.items()}
    found = {name: value.shape[1:] for name, value in groups.items()}
    if set(found) != set(kept):
        raise ValueError(
            f"the state remembers logits of the blocks {sorted(kept)}, this gate those "
            f"of {sorted(found)}: it was made with another granularity, or with or "
            "without smoothing, hysteresis and slew. Call init again."
        )
    check_same_shapes(found, kept, number)


def _is_memoryless(options: _Options) -> bool:
    smoothing, hysteresis = concrete(options.smoothing), concrete(options.hysteresis)
    return smoothing == 0 and hysteresis == 0 and options.slew is None


def _check_options(
    options: _Options, temperature: Any, warmup_steps: Any, descent_guard: Any
) -> None:
    check_number("temperature", temperature, _ABOVE_ZERO, ", or a schedule")
    check_number("floor", options.floor, SHARE)
    check_number("smoothing", options.smoothing, DECAY)
    check_number("hysteresis", options.hysteresis, _FROM_ZERO, " (logits)")
    check_number("slew", options.slew, _ABOVE_ZERO, " (logits a step), or None")
    check_number("warmup_steps", warmup_steps, _FROM_ZERO, " (steps)")
    check_number("descent_guard", descent_guard, SHARE)
