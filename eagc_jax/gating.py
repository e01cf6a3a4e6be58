"""Soft gating: a smooth, bounded, sum-preserving rescaling of each objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax.blocks import GLOBAL, Granularity
from eagc_jax.energy import assess_magnitude
from eagc_jax.objectives import (
    AssessedUpdates,
    by_name,
    check_num_objectives,
    check_objective_axis,
    check_same_names,
    check_same_shapes,
    check_weights,
    compute_dtype,
    concrete,
    expand_to,
    named_leaves,
    reduce_objectives,
    weighted_sum,
)

# Logits closer than this have no order: rounding must not count as a switch.
_TIE = 1e-6


class BlockMemory(NamedTuple):
    """What the gate remembers of one leaf's blocks."""

    average: jax.Array  # shape=(K, *block), float32: biased average of logits.
    visits: jax.Array  # shape=(K, *block), int32: steps that fed it.
    logits: jax.Array  # shape=(K, *block), float32: in force now.


class SoftGateState(NamedTuple):
    """What the gate decided last, and the averages behind it."""

    gates: dict[str, jax.Array]
    # Per block: the factor on each objective's gradient, shape=(K, *block), float32.
    # At granularity "element" the mean per leaf, (K,).
    switches: dict[str, jax.Array]
    # Per leaf, shape=(), int32: how often, over its blocks, another objective took the
    # lead. Stays 0 where nothing is remembered.
    memory: dict[str, BlockMemory]  # empty for a memoryless gate per element.
    count: jax.Array  # shape=(), int32: steps gated; drives warm-up and schedules.


class _Options(NamedTuple):
    weights: jax.Array
    floor: Any
    smoothing: Any
    hysteresis: Any
    slew: Any


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

    Returns:
      A transformation from ``AssessedUpdates`` to leaves ``(K, *shape)``, each in its
      own dtype; gates are float32. Given bare updates it assesses magnitudes itself.

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
    )
    blocks_lib.check_granularity(granularity)
    _check_options(options, temperature, warmup_steps, descent_guard)
    keeps_memory = not (granularity == "element" and _is_memoryless(options))

    def init_fn(params):
        return _initial_state(params, options.weights, granularity, keeps_memory)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if not isinstance(updates, AssessedUpdates):
            check_objective_axis(updates, number, params)
            updates = assess_magnitude(updates, options.weights, granularity)
        if not jax.tree.leaves(updates.updates):  # an empty group of optax.partition
            return updates.updates, state
        _check_assessed(updates, state, number, granularity, params)
        updates, log_energies, active, advance = updates
        leaves = named_leaves(updates)
        tau = temperature(state.count) if callable(temperature) else temperature
        strength = (1 - jnp.asarray(floor, jnp.float32)) * _ramp(
            state.count, warmup_steps
        )
        memory = {
            name: _remember(value, active[name], tau, options, state.memory.get(name))
            for name, value in log_energies.items()
        }
        gates = {
            name: _gate(memory[name].logits, active[name], strength, options)
            for name in memory
        }
        on_leaf = gates
        if granularity == GLOBAL:
            # One logit for all, but in each leaf only among those that reach it.
            on_leaf = {
                name: _gate(memory[GLOBAL].logits, active[name], strength, options)
                for name in leaves
            }
        if descent_guard is not None:
            blend = _guard(on_leaf, leaves, options.weights, descent_guard, granularity)
            on_leaf = {
                n: _blend(a, options.weights, blend[n]) for n, a in on_leaf.items()
            }
            if granularity == GLOBAL:
                any_blend = next(iter(blend.values()), jnp.zeros(()))
                gates = {
                    GLOBAL: _blend(
                        gates[GLOBAL], options.weights, any_blend.reshape(())
                    )
                }
            else:
                gates = on_leaf
        rescaled = [_rescale(leaf, on_leaf[name]) for name, leaf in leaves.items()]
        out = jax.tree.unflatten(jax.tree.structure(updates), rescaled)
        if granularity == "element":
            gates = {name: blocks_lib.leaf_mean(gate) for name, gate in gates.items()}
        return out, SoftGateState(
            gates={
                name: jnp.where(advance, gates[name], old)
                for name, old in state.gates.items()
            },
            switches={
                name: old + _switches(state.memory[name], memory[name])
                if name in state.memory
                else old
                for name, old in state.switches.items()
            },
            memory={name: memory[name] for name in state.memory},
            count=jnp.where(advance, optax.safe_increment(state.count), state.count),
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
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must lie in [0, 1], got {floor}.")
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
    visits = memory.visits + active.astype(jnp.int32)
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
    total = reduce_objectives(jnp.add, prior)
    largest = reduce_objectives(jnp.maximum, jnp.where(active, log_energies, -jnp.inf))
    below = jnp.where(active, log_energies - largest, 0.0)
    mean = reduce_objectives(jnp.add, prior * below) / jnp.where(total > 0, total, 1.0)
    return below - mean


def _gate(
    logits: jax.Array, active: jax.Array, strength: jax.Array, options: _Options
) -> jax.Array:
    """Gates ``(K, *block)`` from logits in force; ``w_k`` where k takes no part."""
    weights = expand_to(options.weights, active.ndim)
    logits = expand_to(logits, active.ndim)
    prior = jnp.where(active, weights, 0.0)
    top = reduce_objectives(jnp.maximum, jnp.where(active, logits, -jnp.inf))
    odds = jnp.where(active, jnp.exp(logits - top), 0.0)
    budget = reduce_objectives(jnp.add, prior)
    normaliser = reduce_objectives(jnp.add, prior * odds)
    # Where all odds are 1, budget and normaliser are the same sum, and share is 1.0 to
    # the last bit: equal energies leave the weighted sum untouched.
    share = odds * budget / jnp.where(normaliser > 0, normaliser, 1.0)
    gate = weights * jnp.maximum(1 + strength * (share - 1), options.floor)
    return jnp.where(active, gate, weights).astype(jnp.float32)


def _rescale(leaf: jax.Array, gate: jax.Array) -> jax.Array:
    wide = compute_dtype(leaf.dtype)
    return (leaf.astype(wide) * gate.astype(wide)).astype(leaf.dtype)


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
    weights: jax.Array,
    eta: Any,
    granularity: Granularity,
) -> dict[str, jax.Array]:
    """How far to blend each leaf's gates towards the weights, ``(*block)`` in [0, 1]."""
    inner, square = {}, {}
    for name, leaf in leaves.items():
        axes = blocks_lib.block_axes(granularity, name, np.shape(leaf)[1:])
        wide = leaf.astype(compute_dtype(leaf.dtype))
        plain = weighted_sum(wide, weights)
        gated = reduce_objectives(jnp.add, wide * gates[name].astype(wide.dtype))
        products = (gated * jnp.conj(plain)).real, (plain * jnp.conj(plain)).real
        inner[name], square[name] = (
            jnp.sum(value, axis=axes, keepdims=True).astype(jnp.float32)
            for value in products
        )
    if granularity == GLOBAL:
        inner, square = _total(inner), _total(square)
    return {name: _blend_needed(inner[name], square[name], eta) for name in leaves}


def _total(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
    total = sum((value.reshape(()) for value in values.values()), jnp.float32(0))
    return {name: total.reshape(value.shape) for name, value in values.items()}


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


def _switches(old: BlockMemory, new: BlockMemory) -> jax.Array:
    """In how many blocks another objective leads than before."""
    leader_old, decided_old = _leader(old.logits)
    leader_new, decided_new = _leader(new.logits)
    changed = (leader_old != leader_new) & decided_old & decided_new
    return jnp.sum(changed, dtype=jnp.int32)


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
    params: Any, weights: jax.Array, granularity: Granularity, keeps_memory: bool
) -> SoftGateState:
    number = weights.shape[0]
    leaves = named_leaves(params)
    if granularity == GLOBAL and leaves:
        zeros = {GLOBAL: jnp.zeros((number,), jnp.float32)}
    else:
        zeros = {
            name: blocks_lib.block_zeros(granularity, name, leaf, number)
            for name, leaf in leaves.items()
        }

    # Every leaf of the state owns its buffer: a shared one could not be donated.
    def empty(value):
        return BlockMemory(
            average=jnp.zeros_like(value),
            visits=jnp.zeros_like(value, dtype=jnp.int32),
            logits=jnp.zeros_like(value),
        )

    def plain(value):
        per_leaf = jnp.zeros((number,), jnp.float32)
        shown = per_leaf if granularity == "element" else value
        return shown + expand_to(weights, shown.ndim)

    return SoftGateState(
        gates=by_name({name: plain(value) for name, value in zeros.items()}),
        switches=by_name({name: jnp.zeros([], jnp.int32) for name in zeros}),
        memory=by_name({name: empty(value) for name, value in zeros.items()})
        if keeps_memory
        else {},
        count=jnp.zeros([], jnp.int32),
    )


def _check_assessed(
    assessed: AssessedUpdates,
    state: SoftGateState,
    number: int,
    granularity: Granularity,
    params: Any,
) -> None:
    check_objective_axis(assessed.updates, number, params)
    leaves = named_leaves(assessed.updates)
    blocks = [GLOBAL] if granularity == GLOBAL else list(leaves)
    if set(assessed.log_energies) != set(blocks):
        raise ValueError(
            f"soft_gate has granularity {granularity!r}, but the updates were assessed "
            "at another: give assess_energy and soft_gate the same granularity."
        )
    check_same_names(assessed.log_energies, state.gates, "updates", "state")
    for name, leaf in leaves.items():
        if granularity == GLOBAL:
            break
        expected = blocks_lib.block_shape(granularity, name, np.shape(leaf)[1:])
        found = assessed.log_energies[name].shape[1:]
        if found != expected:
            raise ValueError(
                f"leaf '{name}' was assessed in blocks of shape {found}, but soft_gate "
                f"has blocks of shape {expected}: give assess_energy and soft_gate the "
                "same granularity."
            )
    if granularity != "element":
        check_same_shapes(assessed.log_energies, state.gates)
    elif state.memory:  # without a memory nothing is kept per element
        kept = {name: memory.logits for name, memory in state.memory.items()}
        check_same_shapes(assessed.log_energies, kept)


def _is_memoryless(options: _Options) -> bool:
    smoothing, hysteresis = concrete(options.smoothing), concrete(options.hysteresis)
    return smoothing == 0 and hysteresis == 0 and options.slew is None


def _check_options(
    options: _Options, temperature: Any, warmup_steps: Any, descent_guard: Any
) -> None:
    def check(name, value, holds, expected):
        known = concrete(value)
        if known is not None and not (known.shape == () and bool(holds(known))):
            raise ValueError(f"{name} must {expected}, got {value!r}.")

    check("temperature", temperature, lambda x: x > 0, "be positive, or a schedule")
    check("floor", options.floor, lambda x: 0 <= x <= 1, "lie in [0, 1]")
    check("smoothing", options.smoothing, lambda x: 0 <= x < 1, "lie in [0, 1)")
    check("hysteresis", options.hysteresis, lambda x: x >= 0, "be >= 0 (logits)")
    check("slew", options.slew, lambda x: x > 0, "be positive (logits a step), or None")
    check("warmup_steps", warmup_steps, lambda x: x >= 0, "be >= 0 (steps)")
    check("descent_guard", descent_guard, lambda x: 0 <= x <= 1, "lie in [0, 1]")
