"""MoCo: the min-norm weights of tracked gradients."""

from __future__ import annotations

from typing import Literal, NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    SHARE,
    check_choice,
    check_num_objectives,
    check_number,
)
from eagc_jax._trees import increment, ratio, select, wide_zeros
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import gram_of_tree
from eagc_jax.solvers.entrywise import matvec
from eagc_jax.solvers.simplex import project_simplex
from eagc_jax.typing import OptState, Params, PyTree, Updates

Projection = Literal["simplex", "softmax"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


class MocoState(NamedTuple):
    """Tracked gradients and their weights."""

    tracked: Updates  # leaves (K, *shape), float32: Y.
    weights: jax.Array  # shape=(K,), float32: lambda, in the simplex.
    count: jax.Array  # shape=(), int32: steps.


@_direct.shows_options
def moco(
    num_objectives: int,
    *,
    tracking_rate: optax.ScalarOrSchedule = lambda t: 0.5 / t**0.5,
    weight_rate: optax.ScalarOrSchedule = lambda t: 0.1 / t**0.5,
    regularization: float = 0.0,
    projection: Projection = "simplex",
    relative: bool = True,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Multi-objective gradient correction: MGDA on tracked gradients.

    With the gradients J, one a row, and their tracked averages Y, in step t = 1, 2, ...

    .. math::
      Y &\leftarrow Y - \beta_t(Y - J) \\
      \lambda &\leftarrow
        \Pi_\Delta\big(\lambda - \gamma_t(YY^\top + \rho I)\lambda\big) \\
      d &= Y^\top\lambda .

    Minibatch gradients bias MGDA's weights, since the Gram matrix of noisy gradients
    isn't that of the mean ones; tracking takes the bias away. Guarantee (paper):
    convergence to Pareto stationary points with noisy gradients, for rates that decay.
    As published :math:`\gamma` has the unit of an inverse squared gradient;
    ``relative=True`` divides :math:`YY^\top` by the mean of its diagonal. Length:
    "convex". Cost: a pass for who is finite, an averaging pass, a Gram pass, a weighted
    sum: at least 4K read and K + 1 written, in copies of the parameters (made here: 5K
    and K + 1). Memory: K copies of the parameters in float32.

    Args:
      num_objectives: K, a Python int.
      tracking_rate: :math:`\beta`, a number in [0, 1] or a function of t >= 1.
      weight_rate: :math:`\gamma`, a number >= 0 or a function of t >= 1.
      regularization: :math:`\rho` >= 0; large ones pull the weights together.
      projection: "simplex" as in the paper, or "softmax" of the moved weights, as in a
        common implementation.
      relative: whether :math:`YY^\top` is divided by the mean of its diagonal.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; gradients are multiplied by the preference
        first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`, ``method`` a ``MocoState``. What an objective that is absent
      has tracked, and its weight, wait; d is of the active ones, weights scaled to 1.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import moco
      >>> tx = moco(2, tracking_rate=1.0, weight_rate=0.1)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> _, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> [round(float(w), 3) for w in state.method.weights]
      [0.46, 0.54]

    References:
      Fernando et al., `Mitigating Gradient Bias in Multi-objective Learning
      <https://openreview.net/forum?id=dLAYGdKTi2>`_, 2023, algorithm 1.
    """
    number = check_num_objectives(num_objectives)
    check_number("tracking_rate", tracking_rate, SHARE)
    check_number("weight_rate", weight_rate, NONNEGATIVE)
    check_number("regularization", regularization, NONNEGATIVE)
    check_choice("projection", projection, PROJECTIONS)

    def init(params: Params) -> MocoState:
        weights = jnp.full((number,), 1 / number, jnp.float32)
        tracked = wide_zeros(params, number)
        return MocoState(tracked, weights, jnp.zeros([], jnp.int32))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        count = increment(state.count)
        t = count.astype(jnp.float32)
        beta = _arithmetic.scheduled(tracking_rate, t)
        moves = jnp.where(step.active & step.advance, beta, 0.0).astype(jnp.float32)

        def track(y, leaf):
            moved = y + _arithmetic.per_objective(moves, y) * (step.masked(leaf) - y)
            return moved.astype(y.dtype)

        tracked = jax.tree.map(track, state.tracked, step.updates)
        gram = _gram(tracked, step, relative)
        gram = gram + regularization * jnp.eye(number, dtype=gram.dtype)
        slope = matvec(gram, state.weights)
        moved = state.weights - _arithmetic.scheduled(weight_rate, t) * slope
        weights = _among(moved, state.weights, step.active, projection)
        present = jnp.where(step.active, weights, 0.0)
        among = jnp.maximum(jnp.sum(step.active, dtype=jnp.int32), 1)
        equal = step.active.astype(jnp.float32) / among.astype(jnp.float32)
        mass = jnp.sum(present)
        shares = jnp.where(mass > 0, ratio(present, mass), equal)
        d = _arithmetic.reduced(tracked, shares)
        small = select(step.advance, (weights, count), (state.weights, state.count))
        return d, MocoState(tracked, *small)

    method = _direct.Method("moco", "convex", init, apply, weighs=False, keeps=True)
    return _direct.from_method(num_objectives, method, **options)


def _gram(tracked: Updates, step: _direct.Step, relative: bool) -> jax.Array:
    gram, _ = gram_of_tree(tracked, step.active, step.names)
    if not relative:
        return (gram.matrix * gram.scale**2).astype(jnp.float32)
    size = _arithmetic.masked_mean(jnp.diagonal(gram.matrix), step.active)
    return (gram.matrix / jnp.where(size > 0, size, 1.0)).astype(jnp.float32)


def _among(
    moved: jax.Array, before: jax.Array, active: jax.Array, projection: Projection
) -> jax.Array:
    """Weights of the active objectives, with the sum they had; the others' stay."""
    budget = jnp.sum(jnp.where(active, before, 0.0))
    if projection == "softmax":
        found = _arithmetic.masked_softmax(moved, active)
    else:
        scaled = ratio(moved, jnp.broadcast_to(budget, moved.shape))
        # Far below the others, an entry projects to 0.
        lowest = jnp.min(jnp.where(active, scaled, jnp.inf)) - 2.0
        lowest = jnp.where(jnp.isfinite(lowest), lowest, 0.0)
        found = project_simplex(jnp.where(active, scaled, lowest))
    return jnp.where(active, budget * found, before)
