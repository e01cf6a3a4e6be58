"""Ways to get K gradients: the general one, and two that cost less.

============================================ ==========================================
objectives                                   use
============================================ ==========================================
share inputs and everything else             :func:`value_and_grads`
meet in one feature, then have own heads     :func:`value_and_grads_at_feature`
have batches of their own                    :func:`value_and_grads_by_batch`
============================================ ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.objectives import _UNROLL_LIMIT, named_leaves, stack_objectives

LossFunctions = Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]]


def value_and_grads(
    losses_fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """Like ``jax.value_and_grad`` for K losses: one forward pass, K backward passes.

    The forward pass and its residuals are shared, so the work over that of one summed
    loss is ``(1 + 2K) / 3`` at most: 1.67 for K = 2. The backward passes run one after
    the other, which on CPU is faster than ``jax.jacrev`` (one batched pass) and holds
    the cotangents of one objective at a time.

    Args:
      losses_fn: returns the losses: an array ``(K,)``, or a tuple, list or dict of K
        scalars; with ``has_aux`` a pair (losses, aux). A dict's objectives are in the
        order in which JAX flattens it: sorted by name.
      argnums: which argument or arguments to differentiate, as in ``jax.grad``.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function of the same arguments that returns (losses, gradients), or
      ((losses, aux), gradients). Losses come in the form ``losses_fn`` gave them;
      gradients are like the arguments with leaves ``(K, *leaf.shape)`` in the leaf's
      dtype (a tuple of such trees where ``argnums`` is a sequence).

    Raises:
      ValueError: losses that are not K scalars, when called.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import value_and_grads
      >>> def losses_fn(w):
      ...   return {"near_one": jnp.sum((w - 1) ** 2), "small": jnp.sum(w**2)}
      >>> losses, grads = value_and_grads(losses_fn)(jnp.array([2.0, 3.0]))
      >>> float(losses["near_one"]), grads.shape
      (5.0, (2, 2))
    """
    several = not isinstance(argnums, int | np.integer)
    positions = tuple(argnums) if several else (argnums,)  # type: ignore[arg-type]

    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        _check_positions(positions, len(args))
        for position in positions:
            _check_differentiable(args[position], f"argument {position}")

        def of_chosen(*chosen: Any) -> tuple[Any, Any]:
            full = list(args)
            for position, value in zip(positions, chosen, strict=True):
                full[position] = value
            out = losses_fn(*full, **kwargs)
            losses, aux = out if has_aux else (out, None)
            return losses, aux

        losses, pullback, aux = jax.vjp(
            of_chosen, *(args[position] for position in positions), has_aux=True
        )
        gradients = _pull_back_each(pullback, _one_hot_cotangents(losses))
        gradients = gradients if several else gradients[0]
        return ((losses, aux) if has_aux else losses), gradients

    return wrapped


def value_and_grads_at_feature(
    feature_fn: Callable[..., Any], loss_fns: LossFunctions
) -> Callable[..., tuple[Any, tuple[Any, Any]]]:
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
    names, functions = _named_functions(loss_fns)

    def wrapped(trunk_params: Any, head_params: Any, *args: Any):
        _check_differentiable(trunk_params, "trunk_params")
        feature, pullback = jax.vjp(lambda p: feature_fn(p, *args), trunk_params)
        pairs = [
            jax.value_and_grad(_scalar(loss, name), argnums=(0, 1))(
                head_params, feature, *args
            )
            for name, loss in zip(names, functions, strict=True)
        ]
        losses = [loss for loss, _ in pairs]
        heads = stack_objectives([head for _, (head, _) in pairs])
        trunk = _pull_back_each(pullback, [at_z for _, (_, at_z) in pairs])[0]
        return _like(loss_fns, names, losses), (trunk, heads)

    return wrapped


def value_and_grads_by_batch(
    loss_fns: LossFunctions,
) -> Callable[..., tuple[Any, Any]]:
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
    names, functions = _named_functions(loss_fns)

    def wrapped(params: Any, batches: Any):
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
            jax.value_and_grad(_scalar(loss, name))(params, batch)
            for name, loss, batch in zip(names, functions, ordered, strict=True)
        ]
        gradients = stack_objectives([gradient for _, gradient in pairs])
        return _like(loss_fns, names, [loss for loss, _ in pairs]), gradients

    return wrapped


def _check_positions(positions: tuple[int, ...], number: int) -> None:
    for position in positions:
        if not -number <= position < number:
            raise ValueError(
                f"argnums names positional argument {position}, but {number} were "
                "given. Arguments to differentiate are passed by position."
            )


def _check_differentiable(tree: Any, what: str) -> None:
    for name, leaf in named_leaves(tree).items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                f"leaf '{name}' of {what} has dtype {jnp.result_type(leaf)}; only "
                "floating point can be differentiated. Split the rest off first."
            )


def _one_hot_cotangents(losses: Any) -> list[Any]:
    """K cotangents, each one at a single loss; checks that there are K scalars."""
    leaves, treedef = jax.tree.flatten(losses)
    shapes = [np.shape(leaf) for leaf in leaves]
    vector = len(leaves) == 1 and len(shapes[0]) == 1 and shapes[0][0] > 0
    if not leaves or not (vector or all(shape == () for shape in shapes)):
        raise ValueError(
            "losses_fn must return an array (K,), or a tuple or dict of K scalars; got "
            f"leaves of shapes {shapes}. Take the mean or the sum of each loss."
        )
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError(
            f"losses must be real floating point, got {[str(x) for x in dtypes]}."
        )
    # Zeros of the losses themselves: under shard_map cotangents vary as they do.
    zeros = [jnp.zeros_like(x, dtype=d) for x, d in zip(leaves, dtypes, strict=True)]
    if vector:
        unit = np.eye(shapes[0][0], dtype=dtypes[0])
        return [jax.tree.unflatten(treedef, [zeros[0] + row]) for row in unit]
    return [
        jax.tree.unflatten(
            treedef, [z + 1 if i == k else z for i, z in enumerate(zeros)]
        )
        for k in range(len(leaves))
    ]


def _pull_back_each(pullback: Callable, cotangents: list[Any]) -> Any:
    """Pulls back K cotangents and stacks the results along a new axis 0."""
    if len(cotangents) > _UNROLL_LIMIT:  # keeps the program small
        return jax.vmap(pullback)(stack_objectives(cotangents))
    return stack_objectives([pullback(cotangent) for cotangent in cotangents])


def _named_functions(loss_fns: LossFunctions) -> tuple[tuple, list[Callable]]:
    if isinstance(loss_fns, Mapping):
        names = tuple(sorted(loss_fns))
        functions = [loss_fns[name] for name in names]
    else:
        functions = list(loss_fns)
        names = tuple(range(len(functions)))
    if not functions:
        raise ValueError("loss_fns needs at least one loss function, got none.")
    return names, functions


def _scalar(loss: Callable[..., Any], name: Any) -> Callable[..., Any]:
    def checked(*args: Any) -> Any:
        value = loss(*args)
        if np.shape(value) != ():
            raise ValueError(
                f"loss {name!r} must return a scalar, got shape {np.shape(value)}."
            )
        return value

    return checked


def _like(loss_fns: LossFunctions, names: tuple, losses: list[Any]) -> Any:
    if isinstance(loss_fns, Mapping):
        return dict(zip(names, losses, strict=True))
    return tuple(losses)
