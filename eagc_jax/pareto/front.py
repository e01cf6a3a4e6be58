"""A Pareto front in one program: the same training for many preferences at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import aggregators
from eagc_jax._checks import NONNEGATIVE, check_count, concrete
from eagc_jax.gradients import value_and_grads
from eagc_jax.gradients._common import as_vector
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates
from eagc_jax.weighted_losses import LossWeighting, loss_weighting

FrontMethod = Literal[
    "chebyshev", "cosmos", "epo", "pmtl", "smooth_chebyshev", "weighted_sum"
]
METHODS: tuple[FrontMethod, ...] = get_args(FrontMethod)
_LossesOnly = Literal["chebyshev", "cosmos", "smooth_chebyshev"]
_LOSSES_ONLY: tuple[_LossesOnly, ...] = get_args(_LossesOnly)

# From a preference (K,), traced, to an aggregator.
MakeAggregator = Callable[[jax.Array], optax.GradientTransformation]

# init(params) -> state, and (losses_fn, params, state) -> (losses, update, state).
_Training = tuple[
    Callable[[Params], OptState],
    Callable[
        [Callable[[Params], PyTree], Params, OptState],
        tuple[jax.Array, Updates, OptState],
    ],
]


class ParetoFront(NamedTuple):
    """P trained models, one a preference."""

    params: Params  # leaves (P, *shape): after the last step.
    losses: jax.Array  # shape=(P, K), float32 or wider: of these, on the last batch.
    history: jax.Array  # shape=(P, steps, K): losses before each step.
    preferences: jax.Array  # shape=(P, K), as given.


def pareto_front(
    losses_fn: Callable[..., PyTree],
    params: Params,
    preferences: jax.typing.ArrayLike,
    *,
    method: FrontMethod | MakeAggregator = "smooth_chebyshev",
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1000,
    batches: Inputs = None,
    stacked: bool = False,
    **options: Any,
) -> ParetoFront:
    r"""Trains P models, one for each preference vector, in one compiled program.

    ``jax.vmap`` over the preferences of a ``jax.lax.scan`` over the steps: P small models
    train at about the cost of one with P times the batch. From where a preference leads:

    ==================== ==================================================== ==========
    method               ends at                                              gradients
    ==================== ==================================================== ==========
    "weighted_sum"       the minimum of :math:`\sum_k r_k L_k`: not on the    1
                         concave parts of a front
    "chebyshev"          all :math:`r_k L_k` equal, where the front has such  1
                         a point; the concave parts too
    "smooth_chebyshev"   the same, up to its ``mu``                           1
    "epo"                the same; no step raises the worst                   K
    "pmtl"               somewhere in the part of the front where no other    K
                         vector has a larger :math:`r \cdot L`
    "cosmos"             near the ray through r (no network input here)       1
    ==================== ==================================================== ==========

    A large :math:`r_k` asks for a small loss k but with "pmtl" and "cosmos", whose rays
    lie in the space of losses.

    Args:
      losses_fn: ``losses_fn(params)`` or, with ``batches``, ``losses_fn(params, batch)``;
        K losses, an array ``(K,)`` or a tree of scalars, >= 0 for all but the weighted
        sum.
      params: where all P trainings start; with ``stacked`` leaves ``(P, *shape)``.
      preferences: ``(P, K)`` >= 0, one a row, none of them zero.
      method: a name, or a function ``preference -> aggregator`` of the K gradients, which
        is called with a traced ``(K,)``: ``lambda r: aggregators.upgrad(2,
        preference=r)``.
      optimizer: behind the method; None for ``optax.adam(1e-2)``.
      steps: an int >= 1.
      batches: a tree whose leaves have the steps first, ``(steps, ...)``; all P trainings
        see the same. None for the same losses in every step.
      stacked: whether ``params`` has one start for each preference.
      **options: of the method, for a named one.

    Returns:
      A :class:`ParetoFront`. Not all points need to be Pareto optimal:
      :func:`eagc_jax.pareto.non_dominated`.

    Raises:
      ValueError: bad arguments, or preferences or batches that don't fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import pareto_front
      >>> def losses_fn(x):
      ...   return (x - 1) ** 2, (x + 1) ** 2
      >>> r = jnp.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
      >>> front = pareto_front(losses_fn, jnp.array(0.3), r, method="weighted_sum")
      >>> [round(float(x), 1) + 0.0 for x in front.params]  # 2 r_1 - 1
      [0.8, 0.0, -0.8]

    References:
      The methods': see :mod:`eagc_jax.aggregators`.
    """
    check_count("steps", steps, 1)
    number = _number(losses_fn, params, batches, stacked)
    vectors = _checked(preferences, number)
    _check_batches(batches, steps)
    if stacked:
        _check_stacked(params, vectors.shape[0])
    make = _maker(method, vectors, number, options)
    optimizer = optax.adam(1e-2) if optimizer is None else optimizer

    def train(preference: jax.Array, index: jax.Array, start: Params) -> PyTree:
        init, gradient_of = make(preference, index)

        def step(carry: PyTree, batch: Inputs) -> PyTree:
            params, states = carry
            of_losses = _of(losses_fn, batch)
            losses, update, state = gradient_of(of_losses, params, states[0])
            update, moments = optimizer.update(update, states[1], params)
            params = optax.apply_updates(params, update)
            return (params, (state, moments)), losses

        carry = start, (init(start), optimizer.init(start))
        (end, _), history = jax.lax.scan(step, carry, batches, length=steps)
        last = jax.tree.map(lambda x: x[-1], batches)
        return end, as_vector(_of(losses_fn, last)(end)), history

    run = jax.jit(jax.vmap(train, in_axes=(0, 0, 0 if stacked else None)))
    found = run(vectors, jnp.arange(vectors.shape[0]), params)
    return ParetoFront(*found, preferences=vectors)


def _of(losses_fn: Callable[..., PyTree], batch: Inputs) -> Callable[[Params], PyTree]:
    return losses_fn if batch is None else lambda params: losses_fn(params, batch)


def _maker(
    method: FrontMethod | MakeAggregator,
    vectors: jax.Array,
    number: int,
    options: dict[str, Any],
) -> Callable[[jax.Array, jax.Array], _Training]:
    """``(preference, index) -> (init(params), (losses_fn, params, state) -> ...)``."""
    if callable(method):
        if options:
            raise ValueError(
                f"options {sorted(options)} are for a method by name; this one is a "
                "function: give them where it makes the aggregator."
            )
        return lambda preference, index: _of_gradients(method(preference))
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {METHODS}, or a function from a preference to an "
            f"aggregator; got {method!r}."
        )
    if method in _LOSSES_ONLY:
        return lambda preference, index: _of_losses(
            loss_weighting(method, number, preference=preference, **options)
        )
    if method == "epo":
        return lambda preference, index: _of_gradients(
            aggregators.epo(number, preference=preference, **options)
        )
    if method == "pmtl":
        return lambda preference, index: _of_gradients(
            aggregators.pmtl(number, preferences=vectors, index=index, **options)
        )
    if options:
        raise ValueError(f"weighted_sum has no options, got {sorted(options)}.")
    return lambda preference, index: _of_sum(preference / jnp.sum(preference))


def _of_gradients(tx: optax.GradientTransformation) -> _Training:
    """From K gradients and an aggregator."""
    transformation = optax.with_extra_args_support(tx)

    def gradient_of(
        losses_fn: Callable[[Params], PyTree], params: Params, state: OptState
    ) -> tuple[jax.Array, Updates, OptState]:
        losses, gradients = value_and_grads(losses_fn)(params)
        vector = as_vector(losses)
        update, state = transformation.update(gradients, state, params, value=vector)
        return vector, update, state

    return transformation.init, gradient_of


def _of_losses(weighting: LossWeighting) -> _Training:
    """From one backward pass."""

    def gradient_of(
        losses_fn: Callable[[Params], PyTree], params: Params, state: OptState
    ) -> tuple[jax.Array, Updates, OptState]:
        def total(params: Params) -> PyTree:
            vector = as_vector(losses_fn(params))
            value, new = weighting.update(vector, state)
            return value, (vector, new)

        update, (vector, state) = jax.grad(total, has_aux=True)(params)
        return vector, update, state

    return lambda params: weighting.init(), gradient_of


def _of_sum(weights: jax.Array) -> _Training:
    def gradient_of(
        losses_fn: Callable[[Params], PyTree], params: Params, state: OptState
    ) -> tuple[jax.Array, Updates, OptState]:
        def total(params: Params) -> PyTree:
            vector = as_vector(losses_fn(params))
            return jnp.sum(weights.astype(vector.dtype) * vector), vector

        update, vector = jax.grad(total, has_aux=True)(params)
        return vector, update, state

    return lambda params: (), gradient_of


# ---------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------


def _number(
    losses_fn: Callable[..., PyTree], params: Params, batches: Inputs, stacked: bool
) -> int:
    """K, traced and never computed."""
    one = jax.tree.map(lambda x: x[0], params) if stacked else params
    batch = jax.tree.map(lambda x: x[0], batches)
    return jax.eval_shape(lambda p: as_vector(_of(losses_fn, batch)(p)), one).shape[0]


def _checked(preferences: jax.typing.ArrayLike, number: int) -> jax.Array:
    shape, known = np.shape(preferences), concrete(preferences)
    fits = len(shape) == 2 and shape[0] >= 1 and shape[1] == number
    if not fits or (
        known is not None
        and not (NONNEGATIVE.holds(known) and np.all(np.any(known > 0, axis=1)))
    ):
        raise ValueError(
            f"preferences must be one vector of {number} numbers >= 0 a row, none of "
            f"them zero, shape (P, {number}); got {preferences!r}."
        )
    return jnp.asarray(preferences, jnp.float32)


def _check_batches(batches: Inputs, steps: int) -> None:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
    if any(shape[:1] != (steps,) for shape in shapes):
        raise ValueError(
            f"leaves of batches must have the {steps} steps first; got shapes {shapes}."
        )


def _check_stacked(params: Params, number: int) -> None:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    if any(shape[:1] != (number,) for shape in shapes):
        raise ValueError(
            f"with stacked=True leaves of params must have the {number} preferences "
            f"first; got shapes {shapes}."
        )
