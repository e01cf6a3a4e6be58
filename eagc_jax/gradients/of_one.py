"""The gradient of one objective, chosen while the program runs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gradients._common import (
    LossFunctions,
    check_differentiable,
    named_functions,
    of_chosen_arguments,
    pull_back_vector,
    scalar,
)
from eagc_jax.typing import Inputs, Params, PyTree, Updates


def value_and_grad_of_one(
    losses_fn: Callable[..., PyTree] | LossFunctions, has_aux: bool = False
) -> Callable[..., tuple[PyTree, Updates]]:
    r"""The gradient of objective k, k traced: one backward pass a step.

    :math:`g_k = J^\top e_k`. For methods that visit one objective a step and keep a
    momentum of each, such as ``eagc_jax.aggregators.momentum_conflict_free``; k is
    usually ``step % K``. One compiled program serves every k.

    Given one function of all losses, all of them are computed and one is pulled back.
    Given K functions, only the chosen one is computed at all (``jax.lax.switch``): where
    objectives have inputs of their own that saves the other forward passes.

    Args:
      losses_fn: returns K losses as in :func:`~eagc_jax.gradients.value_and_grads`; or K
        functions ``loss(params, *args) -> scalar`` in a sequence, or in a mapping from
        objective names (ordered by name).
      has_aux: whether the function returns a pair (losses, aux); not with K functions.

    Returns:
      A function ``(params, k, *args)`` that returns (losses, gradient of loss k), or
      ((losses, aux), gradient). Losses are in the form ``losses_fn`` gave them; with K
      functions there is only that of objective k, a scalar. The gradient is like
      ``params``. An index beyond the last counts as the last; negative ones as the first.

    Raises:
      ValueError: no loss function, ``has_aux`` with K functions (at once); k that is not
        one integer, a loss that isn't a scalar (when called).

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import value_and_grad_of_one
      >>> fn = jax.jit(value_and_grad_of_one(lambda w: (w**2, 5 * w)))
      >>> [float(fn(3.0, k)[1]) for k in (0, 1)]
      [6.0, 5.0]

    References:
      Liu, Chu and Thuerey, "ConFIG", 2024, section 3.3 (one gradient a step).
    """
    if callable(losses_fn):
        return _of_one_output(losses_fn, has_aux)
    if has_aux:
        raise ValueError(
            "has_aux needs one function of all losses; K functions return scalars."
        )
    names, functions = named_functions(losses_fn)
    checked = [scalar(loss, n) for loss, n in zip(functions, names, strict=True)]

    def wrapped(
        params: Params, k: jax.typing.ArrayLike, *args: Inputs
    ) -> tuple[PyTree, Updates]:
        check_differentiable(params, "params")
        index = jnp.clip(_index(k), 0, len(checked) - 1)
        branches = [jax.value_and_grad(loss) for loss in checked]
        return jax.lax.switch(index, branches, params, *args)

    return wrapped


def _of_one_output(
    losses_fn: Callable[..., PyTree], has_aux: bool
) -> Callable[..., tuple[PyTree, Updates]]:
    def wrapped(
        params: Params, k: jax.typing.ArrayLike, *args: Inputs, **kwargs: Inputs
    ) -> tuple[PyTree, Updates]:
        index = _index(k)
        of_chosen, chosen = of_chosen_arguments(
            losses_fn, 0, has_aux, (params, *args), kwargs
        )
        vector, pullback, (losses, aux) = pull_back_vector(of_chosen, chosen)
        index = jnp.clip(index, 0, vector.size - 1)
        chosen = (jnp.arange(vector.size, dtype=jnp.int32) == index).astype(
            vector.dtype
        )
        (gradient,) = pullback(jnp.zeros_like(vector) + chosen)
        return ((losses, aux) if has_aux else losses), gradient

    return wrapped


def _index(k: jax.typing.ArrayLike) -> jax.Array:
    if np.shape(k) != () or not jnp.issubdtype(jnp.result_type(k), jnp.integer):
        raise ValueError(
            "k, the second argument, must be one integer: which objective to pull "
            f"back; got {jnp.result_type(k)} of shape {np.shape(k)}."
        )
    return jnp.asarray(k, jnp.int32)
