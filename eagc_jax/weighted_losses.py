"""Losses only: weights for K losses, and one backward pass of their weighted sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp

from eagc_jax import aggregators
from eagc_jax._checks import check_choice, check_num_objectives
from eagc_jax.aggregators._base import AggregateState, GramOptions
from eagc_jax.aggregators._direct import DirectOptions, DirectState
from eagc_jax.gradients._common import as_vector
from eagc_jax.typing import PyTree

LossMethod = Literal[
    "chebyshev",
    "cosmos",
    "dwa",
    "famo",
    "gls",
    "imtl_l",
    "random_weighting",
    "smooth_chebyshev",
    "uncertainty_weighting",
]
METHODS: tuple[LossMethod, ...] = get_args(LossMethod)
# Their length isn't that of the gradients: to change it, gradients would be needed.
_UNIT = ("cosmos", "gls", "imtl_l", "uncertainty_weighting")
_SHARED = ("nonfinite", "preference", "rescale", "seed")

LossState = DirectState | AggregateState


class WeighLosses(Protocol):
    """The field ``update`` of a :class:`LossWeighting`."""

    def __call__(
        self, losses: PyTree, state: LossState, **extra_args: object
    ) -> tuple[jax.Array, LossState]:
        """The weighted sum of the losses, to differentiate, and the new state."""
        ...


class LossWeighting(NamedTuple):
    """A pair of pure functions, like an Optax transformation, but of losses."""

    init: Callable[[], LossState]
    # (losses, state, active_mask=None, ...) -> (the weighted sum of losses, new state).
    update: WeighLosses


def loss_weighting(
    method: LossMethod, num_objectives: int, **options: object
) -> LossWeighting:
    r"""Weighs K losses by an aggregator that looks at losses alone.

    .. math:: \text{total} = \sum_k \mathrm{stop}(w_k)\, L_k , \qquad
              \nabla_\theta\,\text{total} = \sum_k w_k \nabla_\theta L_k ,

    the update that ``eagc_jax.aggregators.<method>`` makes of K gradients, from one
    backward pass: no leaf ``(K, *shape)`` is made. There is one definition of each
    method: the aggregator itself is called where the parameters are the losses, whose K
    gradients are the rows of the identity, and whose update is therefore w.

    What differs from the aggregator: gradients aren't seen. ``rescale`` can't be
    "norm_of_mean" (nor anything but "native" for ``cosmos``, ``gls``, ``imtl_l`` and
    ``uncertainty_weighting``), and ``nonfinite`` knows losses that aren't finite, but
    not gradients that aren't: those of a loss whose weight is 0 are multiplied by 0 on
    their way back, which leaves a NaN a NaN; ``optax.apply_if_finite`` skips such steps.

    Guarantee, length: the method's. Cost: some operations on K numbers. Memory: the
    method's state, at most 7K numbers.

    Args:
      method: "uncertainty_weighting", "imtl_l" (with ``closed_form=True`` the sum of
        the losses' logarithms, which is DB-MTL's treatment of losses), "dwa", "famo",
        "chebyshev", "smooth_chebyshev", "gls", "cosmos" or "random_weighting" (RLW).
      num_objectives: K, a Python int.
      **options: the aggregator's own, and ``preference``, ``nonfinite``, ``rescale``;
        ``seed`` of "random_weighting".

    Returns:
      A :class:`LossWeighting`. ``init()`` gives the state, the aggregator's own.
      ``update(losses, state, active_mask=None, **extra)`` takes K losses, an array
      ``(K,)`` or a tree of K scalars, and gives the total, a float32 (or wider) scalar
      to differentiate, and the new state; ``state.weights`` are the weights. ``extra``
      is the method's (``value_after`` of FAMO, ``preference`` of COSMOS). Losses of
      several devices, or microbatches, are averaged before. For ``jax.jit``,
      ``jax.lax.scan``, ``jax.vmap``.

    Raises:
      ValueError: a method that needs gradients, or bad options (at once); losses that
        aren't K scalars (when traced).

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from eagc_jax import loss_weighting
      >>> weighting, optimizer = loss_weighting("famo", 2), optax.adam(0.1)
      >>> def total_loss(params, state, x):
      ...   losses = jnp.mean((params - x) ** 2), 9 * jnp.mean((params + x) ** 2)
      ...   return weighting.update(losses, state)
      >>> @jax.jit
      ... def step(params, states, x):
      ...   of_losses, of_adam = states
      ...   gradient, of_losses = jax.grad(total_loss, has_aux=True)(params, of_losses, x)
      ...   updates, of_adam = optimizer.update(gradient, of_adam, params)
      ...   return optax.apply_updates(params, updates), (of_losses, of_adam)
      >>> params = jnp.zeros(3)
      >>> states = weighting.init(), optimizer.init(params)
      >>> params, states = step(params, states, jnp.ones(3))
      >>> [round(float(w), 2) for w in states[0].weights]
      [0.9, 0.1]

    References:
      Those of the aggregators.
    """
    check_choice("method", method, METHODS)
    number = check_num_objectives(num_objectives)
    _check_options(method, options)
    transformation = getattr(aggregators, method)(number, **options)

    def init() -> LossState:
        state = transformation.init(jnp.zeros((number,), jnp.float32))
        # Each leaf its own buffer: a step that donates them may not get one twice.
        return jax.tree.map(jnp.array, state)

    def update(
        losses: PyTree, state: LossState, **extra_args: object
    ) -> tuple[jax.Array, LossState]:
        vector = as_vector(losses)
        known = jax.lax.stop_gradient(vector)
        unit = jnp.eye(number, dtype=known.dtype)
        weights, state = transformation.update(unit, state, value=known, **extra_args)
        weights = jax.lax.stop_gradient(weights)
        # What is left out may be NaN.
        counted = jnp.where(weights != 0, vector, jnp.zeros_like(vector))
        return jnp.sum(weights * counted), state

    return LossWeighting(init, update)


def _check_options(method: LossMethod, options: dict[str, object]) -> None:
    """Raises ValueError for what has no meaning without gradients."""
    of_gradients = {*GramOptions.__annotations__, *DirectOptions.__annotations__}
    refused = sorted(set(options) & of_gradients - set(_SHARED))
    if refused:
        raise ValueError(
            f"loss_weighting sees no gradients, so it has no {', '.join(refused)}: use "
            f"eagc_jax.aggregators.{method} on K gradients, or leave it out."
        )
    rescale = options.get("rescale", "native")
    if rescale == "norm_of_mean" or (method in _UNIT and rescale != "native"):
        raise ValueError(
            f"rescale={rescale!r} of {method} needs the gradients' norms, which "
            f"loss_weighting doesn't see: use eagc_jax.aggregators.{method} on K "
            "gradients, or rescale='native'."
        )
