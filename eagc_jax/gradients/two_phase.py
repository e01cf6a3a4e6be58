"""Two phases: the Gram matrix, then one backward pass of the weighted loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from eagc_jax._checks import check_choice
from eagc_jax.gradients._common import (
    Weighting,
    in_the_form_of,
    of_chosen_arguments,
    pull_back_vector,
    weights_of,
)
from eagc_jax.gram import gram_matrix
from eagc_jax.typing import Inputs, PyTree, Updates

GramWay = Literal["columns", "batched"]
GRAMS: tuple[GramWay, ...] = get_args(GramWay)


def two_phase(
    losses_fn: Callable[..., PyTree],
    weighting: Weighting,
    *,
    gram: GramWay = "columns",
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., tuple[PyTree, Updates, jax.Array]]:
    r"""The weighted gradient, without K gradients in memory.

    :math:`d = \nabla_\theta \sum_k w_k(G) L_k`, with :math:`G = J J^\top` the Gram
    matrix of the K gradients. First G, then the weights, then one more backward pass of
    the same residuals with cotangent w: what an aggregator with these weights makes of
    K gradients, which are never all held at once. The Gram matrix comes in two ways:

    ``"columns"``
      :math:`G_{:k} = J (J^\top e_k)`: one backward and one forward-mode pass for each
      objective, in a compiled loop that holds one gradient. Memory: that of the summed
      loss and about one gradient. Work: (3 + 4K) / 3 of the summed loss's.
    ``"batched"``
      K backward passes as one, each leaf reduced as it comes. Work: (3 + 2K) / 3. XLA
      frees the K gradients of a leaf early in a model written out layer by layer, and
      not at all in one that scans over its layers: there, use
      :func:`~eagc_jax.gradients.tapped_two_phase`.

    Inner products are float32 at highest precision with "batched"; "columns" makes them
    in the model's own arithmetic, so in a bfloat16 model they carry its rounding.

    Args:
      losses_fn: returns the losses: an array ``(K,)``, or a tuple, list or dict of K
        scalars; with ``has_aux`` a pair (losses, aux).
      weighting: a pure function from a ``(K, K)`` Gram matrix to ``(K,)`` weights, such
        as those of ``eagc_jax.weightings``; the objectives are in JAX's order: a dict's
        sorted by name.
      gram: "columns" or "batched".
      argnums: which argument or arguments to differentiate, as in ``jax.grad``.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function of the same arguments that returns (losses, gradient, weights), or
      ((losses, aux), gradient, weights). The gradient is like the argument, without an
      objective axis: ordinary Optax takes it. Weights are ``(K,)``, float32 or wider.

    Raises:
      ValueError: an unknown ``gram`` (at once); losses that are not K scalars, or a
        weighting that doesn't return K weights (when called).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import two_phase
      >>> def losses_fn(w):
      ...   return {"near_one": jnp.sum((w - 1) ** 2), "small": jnp.sum(w**2)}
      >>> def equal_norms(gram):
      ...   return 1 / jnp.sqrt(jnp.diagonal(gram))
      >>> step = two_phase(losses_fn, equal_norms)
      >>> losses, gradient, weights = step(jnp.array([1.0, 2.0]))
      >>> gradient.shape, weights.tolist()[0]
      ((2,), 0.5)

    References:
      Quinton and Rey, "Jacobian descent for multi-objective optimization", 2024, section
      6 (weights from the Gramian).
    """
    _check_gram(gram)

    def wrapped(*args: Inputs, **kwargs: Inputs) -> tuple[PyTree, Updates, jax.Array]:
        of_chosen, chosen = of_chosen_arguments(
            losses_fn, argnums, has_aux, args, kwargs
        )
        vector, pullback, (losses, aux) = pull_back_vector(of_chosen, chosen)
        weights = weights_of(weighting, _gram(vector, pullback, gram))
        gradient = in_the_form_of(argnums, pullback(weights.astype(vector.dtype)))
        return ((losses, aux) if has_aux else losses), gradient, weights

    return wrapped


def value_and_gram(
    losses_fn: Callable[..., PyTree],
    *,
    gram: GramWay = "columns",
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., tuple[PyTree, jax.Array]]:
    r"""The losses and the Gram matrix of their gradients: the first of two phases.

    :math:`G_{kl} = \langle \nabla L_k, \nabla L_l \rangle`, as :func:`two_phase` gets
    it: to log norms and cosines of objectives every so often, at little memory.

    Args:
      losses_fn: as in :func:`two_phase`.
      gram: "columns" or "batched", as in :func:`two_phase`.
      argnums: which argument or arguments to differentiate.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function of the same arguments that returns (losses, Gram matrix ``(K, K)``), or
      ((losses, aux), Gram matrix).

    Raises:
      ValueError: an unknown ``gram`` (at once); losses that are not K scalars.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import value_and_gram
      >>> fn = value_and_gram(lambda w: (3 * w[0], w[0] + w[1]))
      >>> fn(jnp.ones(2))[1].tolist()
      [[9.0, 3.0], [3.0, 2.0]]
    """
    _check_gram(gram)

    def wrapped(*args: Inputs, **kwargs: Inputs) -> tuple[PyTree, jax.Array]:
        of_chosen, chosen = of_chosen_arguments(
            losses_fn, argnums, has_aux, args, kwargs
        )
        vector, pullback, (losses, aux) = pull_back_vector(of_chosen, chosen)
        found = _gram(vector, pullback, gram)
        return ((losses, aux) if has_aux else losses), found

    return wrapped


def _check_gram(gram: GramWay) -> None:
    check_choice("gram", gram, GRAMS)


def _gram(
    vector: jax.Array, pullback: Callable[[jax.Array], PyTree], gram: GramWay
) -> jax.Array:
    eye = jnp.zeros_like(vector)[None] + jnp.eye(vector.size, dtype=vector.dtype)
    if gram == "batched":
        return gram_matrix(jax.vmap(pullback)(eye))
    # The transpose of J^T, not a second linearization: code with a backward pass of its
    # own (custom_vjp) has no forward mode, but its backward pass is linear.
    push_forward = jax.linear_transpose(pullback, vector)

    def column(unit: jax.Array) -> jax.Array:
        return push_forward(pullback(unit))[0]

    columns = jax.lax.map(column, eye)
    return 0.5 * (columns + columns.T)
