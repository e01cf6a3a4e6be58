"""EAGC: energy assessment, soft gating and reduction, as one Optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Unpack, get_args

import jax
import numpy as np
import optax

from eagc_jax._checks import (
    DECAY,
    Nonfinite,
    check_choice,
    check_num_objectives,
    check_number,
    check_weights,
    concrete,
)
from eagc_jax._shards import AxisName
from eagc_jax.aggregators._base import GramOptions, from_weighting
from eagc_jax.aggregators.elastic_cone import elastic_method
from eagc_jax.blocks import Granularity
from eagc_jax.energy import assess_energy
from eagc_jax.energy.options import ALIGNMENTS, Energy, Scale, check_energy
from eagc_jax.gating import soft_gate
from eagc_jax.objectives import sum_objectives
from eagc_jax.typing import PyTree

Preset = Literal["balanced", "article"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

# By preset, where nothing else is asked for.
_BALANCED: dict[Preset, float] = {"balanced": 0.5, "article": 0.0}
_STIFF: dict[Preset, float] = {"balanced": 1.0, "article": 0.0}
# Defaults of options that need some part of it: what differs from them was asked for.
_DEFAULTS = {
    "memory": 1000.0,
    "release": 1.0,
    "direction_decay": 0.9,
    "moment_decay": 0.999,
}


def eagc(
    num_objectives: int,
    *,
    preset: Preset = "balanced",
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
    balance: float | None = None,
    memory: float = 1000.0,
    stiffness: float | Sequence[float] | jax.typing.ArrayLike | None = None,
    conflict_memory: float | None = None,
    release: float = 1.0,
    energy: Energy | None = None,
    granularity: Granularity | None = None,
    scale: Scale | None = None,
    temperature: float | Callable[[jax.Array], jax.typing.ArrayLike] | None = None,
    floor: float | None = None,
    smoothing: float | None = None,
    hysteresis: float | None = None,
    slew: float | None = None,
    warmup_steps: int | None = None,
    descent_guard: float | None = None,
    nonfinite: Nonfinite = "propagate",
    alignment_floor: float | None = None,
    direction_decay: float | None = 0.9,
    moment_decay: float | None = 0.999,
    eps: float | None = None,
    axis_name: AxisName = None,
    param_specs: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Energy-Aware Gradient Coordinator: K gradients in, one update out.

    Energy assessment, soft gating, reduction. Place it first in a chain, before anything
    that expects leaves of the parameters' shapes. There are two presets, and everything
    between them.

    **"balanced"**, the default, is :func:`eagc_jax.aggregators.elastic_cone`. An
    objective's energy is the running norm of its gradient; a slow gate for each brings
    the energies together, half way, so that a loss is not drowned by another that is in
    larger units; then each gated gradient is projected on the cone without conflict, and
    they are summed. Where no gradients conflict it is the sum of the gated ones.
    ``balance=1`` is for losses whose units mean nothing: docs/evidence.md has tasks on
    which it beats tuned weights, and a small table that it overfits. Being a function of
    the Gram matrix, ``optimizer_aware(eagc(K), optimizer)`` does the same in the
    optimizer's metric.

    **"article"** is ``optax.chain`` of :func:`eagc_jax.assess_energy` (the article that
    named EAGC calls it *GradientEnergyAnalyzer*), :func:`eagc_jax.soft_gate`
    (*DynamicCoordinator*) and :func:`eagc_jax.sum_objectives`; see these for the maths.
    It moves weight, per block, to the objective that pulls hardest there *relative to
    its own mean over all blocks*, in the default scale. Its gates are bounded and keep
    their sum; they don't balance the objectives' magnitudes: a loss scaled by 1000
    leaves them as they are, and still dominates the update. Where there is one block in
    all (``granularity="global"``, or a single vector) it is the plain weighted sum. The
    first ``warmup_steps`` are nearly plain.

    In between: with an ``energy`` the fast gate comes before the balanced reduction;
    with ``balance`` or ``stiffness`` the article's gate is followed by it. The reduction
    then has one block in all, and balances what the gate leaves of the gradients but for
    the weights, which stay what they are.

    Call ``update`` under ``jax.jit``, and with ``params``, so that shapes can be checked.

    What the presets withstand. Balanced: see :func:`eagc_jax.aggregators.elastic_cone`;
    a step, whatever its gradients, counts for a factor of ten over ``memory`` steps at
    most. Article: gates sum to the weights and none falls below ``floor`` times its
    weight; steps that aren't finite change nothing but their count. Energies are those
    of the step, and relative: in the default scale no logit leaves :math:`\pm L`,
    :math:`L = (\log(N/n) - \log \epsilon)/\tau` for a block of n of N shared entries.
    So an attack of any size and length, spikes or gradients that vanish, leaves at most
    :math:`2L\beta^t` of a logit (:math:`\beta` is ``smoothing``) after t steps without:
    0.01 after :math:`\log(200L)/\log(1/\beta)`, 84 steps with the defaults and N/n =
    1e6. ``slew`` adds :math:`2L` over it, ``hysteresis`` may leave as much as it is.
    Energies that remember first have to forget a spike S times the usual size:
    "progress" and "exploratory" in :math:`\log(1000S)/\log(1/\rho)` steps,
    :math:`\rho` the ``direction_decay``: 197 for S = 1e6; "fisher" in
    :math:`\log(1000S^2)/\log(1/\rho)`, of the ``moment_decay``: 34,500 at 0.999, so
    clip the gradients in front of it.

    Measured: docs/evidence.md for the default, docs/results.md for the article's: with
    "magnitude", category discovery on the digits loses 0.028 of accuracy to the plain
    sum; with "exploratory", nothing. Compare before you keep it.

    .. warning:: Coordination is not linear: average gradients over devices and
      microbatches *before* it, not after.

    Args:
      num_objectives: K, a Python int.
      preset: "balanced" or "article": what the next three are if they aren't given.
      weights: K loss weights >= 0, or None for ones.
      balance: in [0, 1], how far energies are brought together: a ratio of r becomes
        r to the power 1 - balance; 0.5, or 0 in "article".
      memory: >= 1, of the running energies, in steps.
      stiffness: in [0, 1], one or K numbers: which share of a conflict with an objective
        is taken out of the others; 1, or 0 in "article".
      conflict_memory: >= 1, in steps: stiffness is times how far an objective's conflict
        with another has persisted over about so many steps, so that conflict that comes
        and goes with the batch stays in the sum; None: whatever conflicts in a step.
        Of ten tasks it did harm on one and gained little on any: docs/choosing.md.
      release: >= 1, how many times slower a running energy falls than it rises, so that
        a gradient that grows shorter because its loss is learned isn't given weight for
        it; 1 for alike. Measured for 8: docs/choosing.md.
      energy: what the fast gate compares: "magnitude", "progress", "exploratory",
        "sensitivity", "fisher", or a mapping from these to coefficients. None for no
        fast gate; in "article", for "magnitude".
      granularity: what shares one gate: "global", "tensor", "channel", "element", or a
        function ``(path, shape)`` to the axes that a block spans; None for "channel".
        Without a fast gate, what shares a balance and a projection; None for "global".
      scale: of the fast gate, as the options that follow: "objective" (invariant to
        rescaling a loss) or "global"; None for "objective".
      temperature: > 0, or a schedule; small ones switch, large ones approach the sum;
        None for 1.
      floor: in [0, 1], the share of its weight that no objective can lose; None for 0.2.
      smoothing: in [0, 1), decay of the average of logits; None for 0.9.
      hysteresis: >= 0, in logits; None for 0.
      slew: the most a logit may move in one step, or None.
      warmup_steps: steps until the gate has its full strength; the first step is plain;
        None for 100.
      descent_guard: in [0, 1], or None: see :func:`eagc_jax.soft_gate`.
      nonfinite: "propagate", "skip_objective" or "skip_update".
      alignment_floor: in (0, 1], of the progress and exploratory energies; None for 0.5.
      direction_decay: in [0, 1), of the running direction; None to pass ``direction``.
      moment_decay: in [0, 1), of the second moment; None to pass ``second_moment``.
      eps: > 0, added to relative energies before the logarithm; None for 1e-8.
      axis_name: inside ``jax.shard_map``, the mesh axes over which parameters are split.
      param_specs: with it, the parameters' ``PartitionSpec`` tree, for "channel": see
        :func:`eagc_jax.assess_energy`.

    Returns:
      A transformation from leaves ``(K, *param.shape)`` to leaves ``(*param.shape)``, in
      the leaves' dtype. What it saw and did: :func:`eagc_jax.diagnostics.report`, or
      ``optax.tree.get`` of ``gates``, ``nonfinite_count`` and, of the cone,
      ``log_energies``, of a fast gate ``energies`` and ``switches`` (of both together
      ``optax.tree.get_all_with_path``).

    Raises:
      ValueError: bad arguments (at once); a missing or wrong objective axis, trees that
        differ, "sensitivity" without params (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import eagc, value_and_grads
      >>> def losses_fn(w):
      ...   return jnp.stack([jnp.sum((w - 1) ** 2), 100 * jnp.sum((w + 1) ** 2)])
      >>> tx = optax.chain(eagc(2), optax.adamw(1e-2))
      >>> w = jnp.array([0.5, -2.0])
      >>> state = tx.init(w)
      >>> losses, grads = value_and_grads(losses_fn)(w)
      >>> updates, state = tx.update(grads, state, w)
      >>> updates.shape
      (2,)

    References:
      The energies, the gates and the springs are this package's own, after the
      vocabulary of Zheng et al., `EAGC <https://arxiv.org/abs/2604.14176>`_, CVPR 2026,
      whose method acts at the feature.
    """
    number = check_num_objectives(num_objectives)
    check_choice("preset", preset, PRESETS)
    asked = {
        "scale": scale,
        "temperature": temperature,
        "floor": floor,
        "smoothing": smoothing,
        "hysteresis": hysteresis,
        "slew": slew,
        "warmup_steps": warmup_steps,
        "descent_guard": descent_guard,
        "alignment_floor": alignment_floor,
        "eps": eps,
        "param_specs": param_specs,
    }
    cone = _Cone(
        _BALANCED[preset] if balance is None else balance,
        memory,
        _STIFF[preset] if stiffness is None else stiffness,
        conflict_memory,
        release,
    )
    if energy is None and preset == "article":
        energy = "magnitude"
    kinds = set() if energy is None else set(check_energy(energy))
    _refuse_unused(
        cone,
        {
            "direction_decay": (direction_decay, not kinds.isdisjoint(ALIGNMENTS)),
            "moment_decay": (moment_decay, "fisher" in kinds),
        },
    )
    if energy is None:
        _refuse(asked)
        return _reduction(
            number,
            weights,
            cone,
            granularity="global" if granularity is None else granularity,
            nonfinite=nonfinite,
            axis_name=axis_name,
        )
    # The stages' own defaults serve for what isn't asked for.
    gate = {name: value for name, value in asked.items() if value is not None}
    shared = {
        "granularity": "channel" if granularity is None else granularity,
        "weights": weights,
        "axis_name": axis_name,
        "param_specs": gate.pop("param_specs", None),
    }
    names = ("scale", "alignment_floor", "eps")
    assessing = {name: gate.pop(name) for name in names if name in gate}
    return optax.chain(
        assess_energy(
            number,
            energy=energy,
            nonfinite=nonfinite,
            direction_decay=direction_decay,
            moment_decay=moment_decay,
            **assessing,
            **shared,
        ),
        soft_gate(number, **gate, **shared),
        _reduction(
            number,
            weights,
            cone,
            carried=True,  # by the gates
            axis_name=axis_name,
        ),
    )


class _Cone(NamedTuple):
    balance: float
    memory: float
    stiffness: float | Sequence[float] | jax.typing.ArrayLike
    conflict_memory: float | None
    release: float

    @property
    def is_sum(self) -> bool:
        """Whether neither balance nor stiffness is asked for."""
        return _is_zero(self.balance) and _is_zero(self.stiffness)


def _reduction(
    number: int,
    weights: Sequence[float] | jax.typing.ArrayLike | None,
    cone: _Cone,
    *,
    carried: bool = False,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    """The elastic cone, or the sum where neither balance nor stiffness is asked for."""
    sizes = check_weights(weights, number)
    method = elastic_method(sizes, *cone, carried=carried)
    if cone.is_sum:
        return sum_objectives(None if carried else weights)
    options["preference"] = weights
    return from_weighting(number, method, **options)


def _is_zero(value: object) -> bool:
    known = concrete(value)
    return known is not None and not np.any(known)


_NEEDS = {
    "memory": "the running energies, which need a balance or a stiffness above 0",
    "release": "the running energies, which need a balance or a stiffness above 0",
    "direction_decay": "the energies 'progress' and 'exploratory'",
    "moment_decay": "the energy 'fisher'",
}


def _refuse_unused(cone: _Cone, decays: dict[str, tuple[object, bool]]) -> None:
    """Raises ValueError for what would change nothing: its part isn't in use."""
    for name, (value, used) in {
        "memory": (cone.memory, not cone.is_sum),
        "release": (cone.release, not cone.is_sum),
        **decays,
    }.items():
        if name in decays:
            check_number(name, value, DECAY)
        # A traced value may be a default of inject_hyperparams' making.
        known = concrete(value)
        given = value is None or (
            known is not None and np.any(known != _DEFAULTS[name])
        )
        if given and not used:
            raise ValueError(
                f"{name} is an option of {_NEEDS[name]}; here there is none, and it "
                f"would change nothing. Got {name}={value!r}."
            )


def _refuse(asked: dict[str, object]) -> None:
    """Raises ValueError for an option of the fast gate where there is none."""
    for name, value in asked.items():
        if value is not None:
            raise ValueError(
                f"{name} is an option of the fast gate, which preset 'balanced' has with "
                f"an energy only; got {name}={value!r}. Give energy='magnitude' (or "
                "another) too, or preset='article'."
            )
