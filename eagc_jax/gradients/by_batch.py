"""K gradients of losses that have batches of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from eagc_jax.gradients._common import LossFunctions, like, named_functions, scalar
from eagc_jax.objectives import stack_objectives
from eagc_jax.typing import Inputs, Params, PyTree, Updates


def value_and_grads_by_batch(
    loss_fns: LossFunctions,
) -> Callable[..., tuple[PyTree, Updates]]:
    """K gradients of losses that each see their own (sub-)batch.

    Where objective k reads only its own rows (supervised: the labeled ones,
    unsupervised: the others), K backward passes over K parts of a batch do the work of
    one pass over the whole: nothing is computed for rows that a loss would mask out.

    Args:
      loss_fns: K functions ``loss(params, batch) -> scalar``; a sequence, or a mapping
        from objective names (ordered by name).

    Returns:
      A function ``(params, batches)``, ``batches`` in the form of ``loss_fns``, that
      returns (losses in that form, gradients with leaves ``(K, *shape)``).

    Raises:
      ValueError: no loss function, a loss that isn't a scalar, or batches that don't
        match the loss functions.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import value_and_grads_by_batch
      >>> fit = lambda w, batch: jnp.mean((w - batch) ** 2)
      >>> fn = value_and_grads_by_batch({"labeled": fit, "unlabeled": fit})
      >>> losses, grads = fn(
      ...   jnp.array(0.0), {"labeled": jnp.ones(2), "unlabeled": jnp.zeros(6)})
      >>> grads.tolist()
      [-2.0, 0.0]
    """
    names, functions = named_functions(loss_fns)

    def wrapped(params: Params, batches: Inputs) -> tuple[PyTree, Updates]:
        if isinstance(loss_fns, Mapping):
            if not isinstance(batches, Mapping) or set(batches) != set(names):
                raise ValueError(
                    f"batches must be a mapping with the keys {list(names)}, got "
                    f"{sorted(batches) if isinstance(batches, Mapping) else batches!r}."
                )
            ordered = [batches[name] for name in names]
        else:
            ordered = list(batches)
            if len(ordered) != len(functions):
                raise ValueError(
                    f"batches has {len(ordered)} entries for {len(functions)} losses."
                )
        pairs = [
            jax.value_and_grad(scalar(loss, name))(params, batch)
            for name, loss, batch in zip(names, functions, ordered, strict=True)
        ]
        gradients = stack_objectives([gradient for _, gradient in pairs])
        return like(loss_fns, names, [loss for loss, _ in pairs]), gradients

    return wrapped
