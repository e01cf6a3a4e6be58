"""COSMOS: a weighted sum, drawn to the ray of its preference."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    check_num_objectives,
    check_number,
    check_preference,
    check_weights,
)
from eagc_jax._trees import ratio
from eagc_jax.aggregators import _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import OptState, PyTree


@_direct.shows_options
def cosmos(
    num_objectives: int,
    *,
    cosine_weight: float = 1.0,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""A weighted sum of losses, and a reward for lying on the preference's ray.

    With a preference r, which sums to 1, a descent on

    .. math:: \sum_k r_k L_k - \lambda\,\frac{r \cdot L}{\|r\|\,\|L\|}, \qquad
        w_k = r_k - \frac{\lambda}{\|L\|}
        \Big(\frac{r_k}{\|r\|} - \cos(r, L)\,\frac{L_k}{\|L\|}\Big) .

    The paper trains *one* network for the whole front: r is drawn anew for each batch
    from a Dirichlet distribution, the network has it as a further input, and the update
    gets the same r::

        r = jax.random.dirichlet(key, jnp.full(K, 1.2))
        update, state = tx.update(grads, state, params, value=losses, preference=r)

    Without the second term networks learn to ignore r. A loss that should be small gets
    a small r_k: the ray goes from the origin through r, in the space of losses. Weights
    can be negative (a loss far below the ray is raised). The losses' scales matter, and
    :math:`\lambda` has their unit. Guarantee: none against conflict. Length: "unit"
    ("convex" for :math:`\lambda=0`). Cost: the weighted sum. Memory: no state.

    Args:
      num_objectives: K, a Python int.
      cosine_weight: :math:`\lambda` >= 0.
      **options: ``preference``, r where ``update`` gets none, K numbers >= 0, divided by
        their sum, None for equal ones; ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses, and takes ``preference``, ``(K,)``. State:
      :class:`DirectState`.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import cosmos
      >>> tx = cosmos(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([3.0, 4.0]))
      >>> [round(float(w), 4) for w in update["w"]]  # the second loss is too large
      [0.4774, 0.517]

    References:
      Ruchte and Grabocka, `Scalable Pareto Front Approximation for Deep Multi-Objective
      Learning <https://arxiv.org/abs/2103.13392>`_, 2021; that the ray is
      from a Dirichlet distribution and the sign of the cosine as in the authors' code.
    """
    number = check_num_objectives(num_objectives)
    check_number("cosine_weight", cosine_weight, NONNEGATIVE)
    # It enters the sum here, in place of multiplying the gradients.
    fixed = check_preference(options.pop("preference", None), number)

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        given = step.extra.get("preference")
        ray = fixed if given is None else check_weights(given, number, "preference")
        return cosmos_weights(step.values, ray, step.active, cosine_weight), state

    method = _direct.Method(
        "cosmos", "unit", lambda params: (), apply, needs_values=True
    )
    return _direct.from_method(num_objectives, method, **options)


def cosmos_weights(
    losses: jax.Array,
    preference: jax.Array,
    active: jax.Array | None = None,
    cosine_weight: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """The gradient in the losses of COSMOS's objective.

    Args:
      losses: ``(K,)``.
      preference: ``(K,)``, >= 0; divided by its sum.
      active: ``(K,)`` bool, or None for all.
      cosine_weight: lambda.

    Returns:
      ``(K,)``, 0 where not active.
    """
    if active is None:
        active = jnp.ones(losses.shape, bool)
    ray = jnp.where(active, preference, 0.0)
    ray = ratio(ray, jnp.sum(ray))
    losses = jnp.where(active, losses, 0.0)
    top = jnp.max(jnp.abs(losses))
    scaled = ratio(losses, top)  # whose squares stay in range
    length = jnp.sqrt(jnp.sum(scaled**2))
    along, unit = ratio(scaled, length), ratio(ray, jnp.sqrt(jnp.sum(ray**2)))
    turn = ratio(unit - jnp.sum(unit * along) * along, length)
    pull = ratio(turn * cosine_weight, top)
    return jnp.where(active, ray - pull, 0.0)
