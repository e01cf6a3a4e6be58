"""What the ways to get gradients share: checks, cotangents, weights, Gram matrices."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._trees import compute_dtype, named_leaves, widened
from eagc_jax.objectives import _UNROLL_LIMIT, stack_objectives
from eagc_jax.typing import Inputs, Params, PyTree, Updates

LossFunctions = Sequence[Callable[..., PyTree]] | Mapping[str, Callable[..., PyTree]]

# A pure function of a (K, K) Gram matrix to (K,) weights: eagc_jax.weightings has them.
Weighting = Callable[[jax.Array], jax.typing.ArrayLike]


def of_chosen_arguments(
    losses_fn: Callable[..., PyTree],
    argnums: int | Sequence[int],
    has_aux: bool,
    args: tuple[Inputs, ...],
    kwargs: Mapping[str, Inputs],
) -> tuple[Callable[..., tuple[PyTree, PyTree]], tuple[PyTree, ...]]:
    """A function of the arguments to differentiate alone, and those arguments.

    Returns:
      ``of_chosen(*chosen) -> (losses, aux)`` with aux None where there is none, and
      ``chosen``.
    """
    positions = positions_of(argnums)
    check_positions(positions, len(args))
    for position in positions:
        check_differentiable(args[position], f"argument {position}")

    def of_chosen(*chosen: Inputs) -> tuple[PyTree, PyTree]:
        full = list(args)
        for position, value in zip(positions, chosen, strict=True):
            full[position] = value
        out = losses_fn(*full, **kwargs)
        return out if has_aux else (out, None)

    return of_chosen, tuple(args[position] for position in positions)


def positions_of(argnums: int | Sequence[int]) -> tuple[int, ...]:
    """``argnums`` as a tuple."""
    if isinstance(argnums, int | np.integer):
        return (int(argnums),)
    return tuple(argnums)


def in_the_form_of(
    argnums: int | Sequence[int], gradients: tuple[Updates, ...]
) -> PyTree:
    """The gradients as ``jax.grad`` gives them: a tuple where argnums is a sequence."""
    return gradients[0] if isinstance(argnums, int | np.integer) else gradients


def pull_back_vector(
    of_chosen: Callable[..., tuple[PyTree, PyTree]], chosen: tuple[PyTree, ...]
) -> tuple[jax.Array, Callable[[jax.Array], tuple[PyTree, ...]], tuple[PyTree, PyTree]]:
    """One forward pass: the losses as one vector, its pullback, and (losses, aux)."""

    def of_vector(*values: Params) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        losses, aux = of_chosen(*values)
        return as_vector(losses), (losses, aux)

    return jax.vjp(of_vector, *chosen, has_aux=True)


def as_vector(losses: PyTree) -> jax.Array:
    """K losses in any form as ``(K,)``, float32 or wider."""
    check_losses(losses)
    leaves = jax.tree.leaves(losses)
    dtype = compute_dtype(np.result_type(*[jnp.result_type(x) for x in leaves]))
    wide = [jnp.asarray(leaf).astype(dtype) for leaf in leaves]
    return wide[0] if wide[0].ndim else jnp.stack(wide)


def weights_of(weighting: Weighting, gram: jax.Array) -> jax.Array:
    """The weights of a Gram matrix, checked: ``(K,)`` in the dtype of the Gram."""
    weights = jnp.asarray(weighting(jax.lax.stop_gradient(gram)))
    if weights.shape != gram.shape[:1] or jnp.iscomplexobj(weights):
        raise ValueError(
            f"weighting must map a {gram.shape} Gram matrix to real weights of shape "
            f"{gram.shape[:1]}; it returned {weights.dtype} of shape {weights.shape}."
        )
    return jax.lax.stop_gradient(weights.astype(gram.dtype))


def inner_products(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, *shape)`` and ``(L, *shape)`` to ``(K, L)``, at the highest precision."""
    axes = tuple(range(1, left.ndim))
    left, right = (widened(x) for x in (left, right))
    return jax.lax.dot_general(
        left,
        right.conj(),
        ((axes, axes), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
    ).real


def check_positions(positions: tuple[int, ...], number: int) -> None:
    for position in positions:
        if not -number <= position < number:
            raise ValueError(
                f"argnums names positional argument {position}, but {number} were "
                "given. Arguments to differentiate are passed by position."
            )


def check_differentiable(tree: PyTree, what: str) -> None:
    for name, leaf in named_leaves(tree).items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                f"leaf '{name}' of {what} has dtype {jnp.result_type(leaf)}; only "
                "floating point can be differentiated. Split the rest off first."
            )


def check_losses(losses: PyTree) -> None:
    """Raises ValueError unless these are K scalars, or one array of them."""
    leaves = jax.tree.leaves(losses)
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


def one_hot_cotangents(losses: PyTree) -> list[PyTree]:
    """K cotangents, each one at a single loss."""
    check_losses(losses)
    leaves, treedef = jax.tree.flatten(losses)
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    # Zeros of the losses themselves: under shard_map cotangents vary as they do.
    zeros = [jnp.zeros_like(x, dtype=d) for x, d in zip(leaves, dtypes, strict=True)]
    if np.ndim(leaves[0]) == 1:
        unit = np.eye(np.size(leaves[0]), dtype=dtypes[0])
        return [jax.tree.unflatten(treedef, [zeros[0] + row]) for row in unit]
    return [
        jax.tree.unflatten(
            treedef, [z + 1 if i == k else z for i, z in enumerate(zeros)]
        )
        for k in range(len(leaves))
    ]


def pull_back_each(
    pullback: Callable[[PyTree], PyTree], cotangents: list[PyTree]
) -> PyTree:
    """Pulls back K cotangents and stacks the results along a new axis 0."""
    if len(cotangents) > _UNROLL_LIMIT:  # keeps the program small
        return jax.vmap(pullback)(stack_objectives(cotangents))
    return stack_objectives([pullback(cotangent) for cotangent in cotangents])


def named_functions(
    loss_fns: LossFunctions,
) -> tuple[tuple[Hashable, ...], list[Callable[..., PyTree]]]:
    if isinstance(loss_fns, Mapping):
        names = tuple(sorted(loss_fns))
        functions = [loss_fns[name] for name in names]
    else:
        functions = list(loss_fns)
        names = tuple(range(len(functions)))
    if not functions:
        raise ValueError("loss_fns needs at least one loss function, got none.")
    return names, functions


def scalar(
    loss: Callable[..., jax.typing.ArrayLike], name: Hashable
) -> Callable[..., jax.typing.ArrayLike]:
    def checked(*args: Inputs) -> jax.typing.ArrayLike:
        value = loss(*args)
        if np.shape(value) != ():
            raise ValueError(
                f"loss {name!r} must return a scalar, got shape {np.shape(value)}."
            )
        return value

    return checked


def like(
    loss_fns: LossFunctions, names: tuple[Hashable, ...], losses: list[jax.Array]
) -> PyTree:
    if isinstance(loss_fns, Mapping):
        return dict(zip(names, losses, strict=True))
    return tuple(losses)
