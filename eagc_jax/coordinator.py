"""EAGC: energy assessment, soft gating and reduction, as one Optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import optax

from eagc_jax._checks import Nonfinite
from eagc_jax._shards import AxisName
from eagc_jax.blocks import Granularity
from eagc_jax.energy import assess_energy
from eagc_jax.energy.options import Energy, Scale
from eagc_jax.gating import soft_gate
from eagc_jax.objectives import sum_objectives
from eagc_jax.typing import PyTree


def eagc(
    num_objectives: int,
    *,
    energy: Energy = "magnitude",
    granularity: Granularity = "channel",
    scale: Scale = "objective",
    temperature: float | Callable[[jax.Array], jax.typing.ArrayLike] = 1.0,
    floor: float = 0.2,
    smoothing: float = 0.9,
    hysteresis: float = 0.0,
    slew: float | None = None,
    warmup_steps: int = 100,
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
    descent_guard: float | None = None,
    nonfinite: Nonfinite = "propagate",
    alignment_floor: float = 0.5,
    direction_decay: float | None = 0.9,
    moment_decay: float | None = 0.999,
    eps: float = 1e-8,
    axis_name: AxisName = None,
    param_specs: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Energy-Aware Gradient Coordinator: K gradients in, one update out.

    ``optax.chain`` of :func:`eagc_jax.assess_energy` (the article that named EAGC calls
    it *GradientEnergyAnalyzer*), :func:`eagc_jax.soft_gate` (*DynamicCoordinator*) and
    :func:`eagc_jax.sum_objectives`; see these for the maths. Place it first in a chain,
    before anything that expects leaves of the parameters' shapes.

    What it does, and what it doesn't. It moves weight, per block, to the objective that
    pulls hardest there *relative to its own mean over all blocks*, in the default scale.
    It doesn't balance the objectives' magnitudes: a loss scaled by 1000 leaves the gates
    as they are, and still dominates the update; that is what ``weights`` are for. Where
    there is one block in all (``granularity="global"``, or a single vector) this scale
    makes it the plain weighted sum. The first ``warmup_steps`` are nearly plain. Call
    ``update`` under ``jax.jit``, and with ``params``, so that shapes can be checked.

    What it withstands. Whatever the gradients do, gates sum to the weights and none falls
    below ``floor`` times its weight; steps that aren't finite change nothing but their
    count. Energies are those of the step, and relative: in the default scale no logit
    leaves :math:`\pm L`, :math:`L = (\log(N/n) - \log \epsilon)/\tau` for a block of n of
    N shared entries. So an attack of any size and length, spikes or gradients that
    vanish, leaves at most :math:`2L\beta^t` of a logit (:math:`\beta` is ``smoothing``)
    after t steps without: 0.01 after :math:`\log(200L)/\log(1/\beta)`, 84 steps with the
    defaults and N/n = 1e6. ``slew`` adds :math:`2L` over it, ``hysteresis`` may leave as
    much as it is. Energies that remember first have to forget a spike S times the usual
    size: "progress" and "exploratory" in :math:`\log(1000S)/\log(1/\rho)` steps,
    :math:`\rho` the ``direction_decay``: 197 for S = 1e6; "fisher" in
    :math:`\log(1000S^2)/\log(1/\rho)`, of the ``moment_decay``: 34,500 at 0.999, so clip
    the gradients in front of it.

    Measured (docs/results.md): with "magnitude", category discovery on the digits loses
    0.028 of accuracy to the plain sum; with "exploratory", nothing. Compare before you
    keep it.

    .. warning:: Coordination is not linear: average gradients over devices and
      microbatches *before* it, not after.

    Args:
      num_objectives: K, a Python int.
      energy: what is compared: "magnitude", "progress", "exploratory", "sensitivity",
        "fisher", or a mapping from these to coefficients.
      granularity: what shares one gate: "global", "tensor", "channel", "element", or a
        function ``(path, shape)`` to the axes that a block spans.
      scale: "objective" (invariant to rescaling a loss) or "global".
      temperature: > 0, or a schedule; small ones switch, large ones approach the sum.
      floor: in [0, 1], the share of its weight that no objective can lose.
      smoothing: in [0, 1), decay of the average of logits.
      hysteresis: >= 0, in logits.
      slew: the most a logit may move in one step, or None.
      warmup_steps: steps until the gate has its full strength; the first step is plain.
      weights: K loss weights >= 0, or None for ones.
      descent_guard: in [0, 1], or None: see :func:`eagc_jax.soft_gate`.
      nonfinite: "propagate", "skip_objective" or "skip_update".
      alignment_floor: in (0, 1], of the progress and exploratory energies.
      direction_decay: in [0, 1), of the running direction; None to pass ``direction``.
      moment_decay: in [0, 1), of the second moment; None to pass ``second_moment``.
      eps: > 0, added to relative energies before the logarithm.
      axis_name: inside ``jax.shard_map``, the mesh axes over which parameters are split.
      param_specs: with it, the parameters' ``PartitionSpec`` tree, for "channel": see
        :func:`eagc_jax.assess_energy`.

    Returns:
      A transformation from leaves ``(K, *param.shape)`` to leaves ``(*param.shape)``, in
      the leaves' dtype. Its state shows the last ``energies``, ``gates``, ``switches``
      and ``nonfinite_count`` (``optax.tree.get``, or
      :func:`eagc_jax.diagnostics.report`).

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
      The energies and the gate are this package's own, after the vocabulary of Zheng et
      al., `EAGC <https://arxiv.org/abs/2604.14176>`_, CVPR 2026, whose method acts at
      the feature.
    """
    return optax.chain(
        assess_energy(
            num_objectives,
            energy=energy,
            granularity=granularity,
            scale=scale,
            weights=weights,
            nonfinite=nonfinite,
            alignment_floor=alignment_floor,
            direction_decay=direction_decay,
            moment_decay=moment_decay,
            eps=eps,
            axis_name=axis_name,
            param_specs=param_specs,
        ),
        soft_gate(
            num_objectives,
            granularity=granularity,
            temperature=temperature,
            floor=floor,
            smoothing=smoothing,
            hysteresis=hysteresis,
            slew=slew,
            warmup_steps=warmup_steps,
            weights=weights,
            descent_guard=descent_guard,
            axis_name=axis_name,
            param_specs=param_specs,
        ),
        sum_objectives(),
    )
