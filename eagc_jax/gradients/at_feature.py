"""K gradients of losses that meet in one feature: split there."""

from __future__ import annotations

from collections.abc import Callable

import jax

from eagc_jax.gradients._common import (
    LossFunctions,
    check_differentiable,
    like,
    named_functions,
    pull_back_each,
    scalar,
)
from eagc_jax.objectives import stack_objectives
from eagc_jax.typing import Inputs, Params, PyTree, Updates


def value_and_grads_at_feature(
    feature_fn: Callable[..., PyTree], loss_fns: LossFunctions
) -> Callable[..., tuple[PyTree, tuple[Updates, Updates]]]:
    """K gradients of losses that meet in a shared feature ("split at z").

    ``value_and_grads`` pulls every objective back through every head. Here each head is
    differentiated once, for its own loss, down to the feature; only the trunk sees K
    cotangents. With large heads (category discovery, detection) this is the cheap form.

    Args:
      feature_fn: ``feature_fn(trunk_params, *args) -> z``, a pytree of arrays.
      loss_fns: K functions ``loss(head_params, z, *args) -> scalar``; a sequence, or a
        mapping from objective names (ordered by name).

    Returns:
      A function ``(trunk_params, head_params, *args)`` that returns (losses, (trunk
      gradients, head gradients)); losses as a tuple, or a dict like ``loss_fns``;
      leaves ``(K, *shape)``. The part of a head that a loss doesn't use has zeros.

    Raises:
      ValueError: no loss function, or a loss that isn't a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import value_and_grads_at_feature
      >>> fn = value_and_grads_at_feature(
      ...   lambda trunk, x: x * trunk,
      ...   {"a": lambda head, z, x: jnp.sum(head["a"] * z),
      ...    "b": lambda head, z, x: jnp.sum(head["b"] * z**2)})
      >>> heads = {"a": jnp.array(3.0), "b": jnp.array(1.0)}
      >>> losses, (trunk, heads) = fn(jnp.array(2.0), heads, jnp.array(1.0))
      >>> trunk.tolist(), heads["a"].tolist()
      ([3.0, 4.0], [2.0, 0.0])
    """
    names, functions = named_functions(loss_fns)

    def wrapped(
        trunk_params: Params, head_params: Params, *args: Inputs
    ) -> tuple[PyTree, tuple[Updates, Updates]]:
        check_differentiable(trunk_params, "trunk_params")
        feature, pullback = jax.vjp(lambda p: feature_fn(p, *args), trunk_params)
        pairs = [
            jax.value_and_grad(scalar(loss, name), argnums=(0, 1))(
                head_params, feature, *args
            )
            for name, loss in zip(names, functions, strict=True)
        ]
        losses = [loss for loss, _ in pairs]
        heads = stack_objectives([head for _, (head, _) in pairs])
        trunk = pull_back_each(pullback, [at_z for _, (_, at_z) in pairs])[0]
        return like(loss_fns, names, losses), (trunk, heads)

    return wrapped
