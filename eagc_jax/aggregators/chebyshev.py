"""Chebyshev scalarization: descend on the worst loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    check_num_objectives,
    check_number,
    check_preference,
    check_vector,
)
from eagc_jax._trees import ratio
from eagc_jax.aggregators import _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import OptState, Params, PyTree

# Numbers, or the smallest losses seen so far.
Ideal = jax.typing.ArrayLike | Literal["running"]


class ChebyshevState(NamedTuple):
    """The ideal point."""

    ideal: jax.Array  # shape=(K,), float32: z; infinite where nothing was seen yet.


@_direct.shows_options
def chebyshev(
    num_objectives: int,
    *,
    ideal: Ideal = 0.0,
    augmentation: float = 0.0,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Descends on the largest weighted distance from the ideal point.

    With the preference :math:`\lambda` and the ideal point z, a subgradient of

    .. math:: \max_k \lambda_k (L_k - z_k) + \rho \sum_k (L_k - z_k),

    so the weights are :math:`\lambda_k` for the worst objective (shared equally among
    exact ties) and 0 for the others, plus :math:`\rho`.

    Unlike a weighted sum, it reaches every Pareto point, also on the concave parts of a
    front, as :math:`\lambda` varies; with :math:`\rho>0` no weakly optimal point that
    isn't optimal. It jumps between objectives: see
    :func:`eagc_jax.aggregators.smooth_chebyshev`. The losses' scales matter: that is
    what :math:`\lambda` is for. Length: "convex" (where preferences are equal). Cost:
    the weighted sum. Memory: K numbers.

    Args:
      num_objectives: K, a Python int.
      ideal: z, a number or K of them, at most the losses; or "running", the smallest
        losses seen so far.
      augmentation: :math:`\rho` >= 0.
      **options: ``preference``, :math:`\lambda`, K numbers >= 0, divided by their mean
        (papers by their sum: a factor K in the learning rate), None for ones;
        ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` a
      ``ChebyshevState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import chebyshev
      >>> tx = chebyshev(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"]
      Array([0., 1.], dtype=float32)

    References:
      Bowman, "On the relationship of the Tchebycheff norm and the efficient frontier of
      multiple-criteria objectives", 1976; Steuer and Choo, "An interactive weighted
      Tchebycheff procedure for multiple objective programming", 1983 (augmented).
    """
    check_number("augmentation", augmentation, NONNEGATIVE)

    def weigh(losses, ratios, point, active):
        return chebyshev_weights(losses, ratios, point, active, augmentation)

    return scalarization("chebyshev", num_objectives, weigh, ideal, options)


def chebyshev_weights(
    losses: jax.Array,
    preference: jax.Array,
    ideal: jax.typing.ArrayLike = 0.0,
    active: jax.Array | None = None,
    augmentation: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """The weights of the (augmented) Chebyshev scalarization: a subgradient in L.

    Args:
      losses: ``(K,)``.
      preference: ``(K,)``.
      ideal: a number or ``(K,)``.
      active: ``(K,)`` bool, or None for all.
      augmentation: rho.

    Returns:
      ``(K,)``, 0 where not active.
    """
    if active is None:
        active = jnp.ones(losses.shape, bool)
    distances = jnp.where(active, preference * (losses - ideal), -jnp.inf)
    worst = active & (distances == jnp.max(distances))
    among = jnp.sum(worst, dtype=jnp.int32).astype(losses.dtype)
    share = ratio(jnp.where(worst, preference, 0.0), among)
    return jnp.where(active, share + augmentation, 0.0)


def scalarization(
    name: str,
    num_objectives: int,
    weigh: Callable[..., jax.Array],
    ideal: Ideal,
    options: DirectOptions,
) -> optax.GradientTransformationExtraArgs:
    """From ``weigh(losses, preference, ideal, active) -> weights`` to an aggregator."""
    number = check_num_objectives(num_objectives)
    # It enters the distances here, in place of multiplying the gradients.
    ratios = check_preference(options.pop("preference", None), number)
    ratios = ratios / jnp.mean(ratios)
    running = isinstance(ideal, str)
    if running and ideal != "running":
        raise ValueError(f"ideal must be numbers or 'running', got {ideal!r}.")
    start = jnp.full((number,), jnp.inf, jnp.float32)
    start = start if running else check_vector("ideal", ideal, number)

    def init(params: Params) -> ChebyshevState:
        del params
        return ChebyshevState(start)

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        point = state.ideal
        if running:
            seen = jnp.where(step.active, step.values, jnp.inf)
            point = jnp.minimum(point, seen)
        usable = jnp.where(jnp.isfinite(point), point, 0.0)
        weights = weigh(step.values, ratios, usable, step.active)
        return weights, ChebyshevState(point)

    method = _direct.Method(name, "convex", init, apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)
