"""Weights from the Gram matrix of the gradients at a shared feature."""

from __future__ import annotations

from collections.abc import Callable

import jax

from eagc_jax._trees import widened
from eagc_jax.gradients._common import (
    LossFunctions,
    Weighting,
    check_differentiable,
    like,
    named_functions,
    scalar,
    weights_of,
)
from eagc_jax.gram import gram_matrix
from eagc_jax.objectives import stack_objectives, weighted_sum
from eagc_jax.typing import Inputs, Params, PyTree, Updates


def value_and_grad_from_representation(
    feature_fn: Callable[..., PyTree],
    loss_fns: LossFunctions,
    weighting: Weighting,
    *,
    weighted_heads: bool = False,
) -> Callable[..., tuple[PyTree, tuple[Updates, Updates], jax.Array]]:
    r"""One backward pass in all: weights from the gradients at the feature z.

    :math:`G_{kl} = \langle \partial L_k / \partial z, \partial L_l / \partial z
    \rangle` over the whole batch, :math:`w = w(G)`, and the trunk's gradient is
    :math:`(\partial z / \partial \theta)^\top \sum_k w_k \partial L_k / \partial z`.
    The trunk is pulled back once, whatever K is: the cost is that of the summed loss,
    and of K gradients the size of z.

    A surrogate: :math:`\|\sum_k w_k \partial L_k / \partial \theta\| \le \|\partial z /
    \partial \theta\| \, \|\sum_k w_k \partial L_k / \partial z\|`, so what is small
    at z is small at the parameters. But conflict at z is not conflict at the parameters:
    a guarantee that a method gives for its K gradients holds here for z alone.
    All objectives must read one z of the same examples.

    Args:
      feature_fn: ``feature_fn(trunk_params, *args) -> z``, a pytree of arrays.
      loss_fns: K functions ``loss(head_params, z, *args) -> scalar``; a sequence, or a
        mapping from objective names (ordered by name).
      weighting: a pure function from a ``(K, K)`` Gram matrix to ``(K,)`` weights.
      weighted_heads: what the heads get: the gradient of the plain sum of the losses
        (False), as is usual where every head has its own loss; or of the weighted sum
        (True), so that trunk and heads descend one scalar.

    Returns:
      A function ``(trunk_params, head_params, *args)`` that returns (losses, (trunk
      gradient, head gradient), weights): losses as a tuple, or a dict like
      ``loss_fns``; gradients like their parameters; weights ``(K,)``.

    Raises:
      ValueError: no loss function, a loss that isn't a scalar, or a weighting that
        doesn't return K weights.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import value_and_grad_from_representation
      >>> fn = value_and_grad_from_representation(
      ...   lambda trunk, x: x * trunk,
      ...   {"a": lambda head, z, x: jnp.sum(head["a"] * z),
      ...    "b": lambda head, z, x: jnp.sum(head["b"] * z)},
      ...   lambda gram: 1 / jnp.sqrt(jnp.diagonal(gram)))
      >>> heads = {"a": jnp.array(2.0), "b": jnp.array(4.0)}
      >>> losses, (trunk, heads), weights = fn(jnp.array(1.0), heads, jnp.array(3.0))
      >>> weights.tolist(), float(trunk), float(heads["a"])
      ([0.5, 0.25], 6.0, 3.0)

    References:
      Sener and Koltun, "Multi-task learning as multi-objective optimization", 2018,
      section 3.3 (MGDA-UB).
    """
    names, functions = named_functions(loss_fns)
    checked = [scalar(loss, n) for loss, n in zip(functions, names, strict=True)]

    def wrapped(
        trunk_params: Params, head_params: Params, *args: Inputs
    ) -> tuple[PyTree, tuple[Updates, Updates], jax.Array]:
        check_differentiable(trunk_params, "trunk_params")
        check_differentiable(head_params, "head_params")
        z, pullback = jax.vjp(lambda p: feature_fn(p, *args), trunk_params)
        check_differentiable(z, "the feature")
        pairs = [
            jax.value_and_grad(loss, argnums=(0, 1))(head_params, z, *args)
            for loss in checked
        ]
        at_z = stack_objectives([gradient for _, (_, gradient) in pairs])
        weights = weights_of(weighting, gram_matrix(at_z))
        combined = jax.tree.map(
            lambda leaf: weighted_sum(leaf, weights).astype(leaf.dtype), at_z
        )
        heads = [head for _, (head, _) in pairs]
        head = _total(heads, weights if weighted_heads else None)
        losses = like(loss_fns, names, [loss for loss, _ in pairs])
        return losses, (pullback(combined)[0], head), weights

    return wrapped


def _total(trees: list[PyTree], weights: jax.Array | None) -> PyTree:
    """The sum of K trees, leaf by leaf in float32: never stacked."""

    def total(*leaves: jax.Array) -> jax.Array:
        wide = [widened(leaf) for leaf in leaves]
        if weights is not None:
            factors = weights.astype(wide[0].real.dtype)
            wide = [w * leaf for w, leaf in zip(factors, wide, strict=True)]
        return sum(wide[1:], wide[0]).astype(leaves[0].dtype)

    return jax.tree.map(total, *trees)
