"""Cosines between objectives and their norms, layer by layer."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from eagc_jax._checks import check_choice, check_objective_axis
from eagc_jax._trees import named_leaves
from eagc_jax.blocks import GLOBAL, ByLeaf, stand_in
from eagc_jax.diagnostics.entanglement import real_vector
from eagc_jax.typing import Updates

LayerGranularity = Literal["tensor", "global"]
_LAYERS: tuple[LayerGranularity, ...] = get_args(LayerGranularity)


def pairwise_cosines(
    updates: Updates, granularity: LayerGranularity = "tensor"
) -> ByLeaf:
    r"""The cosine of each pair of objectives' gradients, in each layer.

    .. math:: \cos_{jk} = \langle g_j, g_k \rangle / (\lVert g_j \rVert
      \lVert g_k \rVert)

    Negative where two objectives conflict. Of the raw gradients, before coordination:
    behind a gate, a projection or anchor alignment it shows what these did. Inner
    products are made in float32 at the highest precision, each gradient in the unit of
    its largest entry, so that no scale under- or overflows. One pass for the largest
    entries, one for the (K, K) products: cheap beside a backward pass.

    Args:
      updates: per-objective gradients, leaves ``(K, *shape)``.
      granularity: "tensor", a matrix for each leaf, or "global", one for all leaves.

    Returns:
      A mapping from a leaf's path (or "global") to ``(K, K)`` float32, a pytree with one
      array. The diagonal is 1; 0 in the rows and columns of a gradient that is zero.

    Raises:
      ValueError: leaves without a common objective axis, or another granularity.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.diagnostics import pairwise_cosines
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-3.0, 0.0]])}
      >>> pairwise_cosines(grads)["w"].tolist()
      [[1.0, -1.0], [-1.0, 1.0]]
    """
    leaves, number = _checked(updates, granularity)
    if not leaves:
        return stand_in()
    largest = _units(leaves, granularity)
    grams = []
    for index, leaf in enumerate(leaves.values()):
        vectors = _vectors(leaf) / _nonzero(largest[:, index, None])
        grams.append(jnp.matmul(vectors, vectors.T, precision="highest"))
    gram = jnp.stack(grams, axis=-1)  # (K, K, L)
    if granularity == GLOBAL:
        gram = jnp.sum(gram, axis=-1, keepdims=True)
    index = jnp.arange(number)
    length = jnp.sqrt(gram[index, index])  # (K, L)
    product = length[:, None] * length[None]
    cosines = jnp.clip(gram / _nonzero(product), -1.0, 1.0)
    # The diagonal exactly, not to rounding.
    cosines = cosines.at[index, index].set(jnp.where(length > 0, 1.0, 0.0))
    return ByLeaf.of_leaves(cosines, _names(leaves, granularity))


def gradient_norms(
    updates: Updates, granularity: LayerGranularity = "tensor"
) -> ByLeaf:
    r"""The length of each objective's gradient, :math:`\lVert g_k \rVert_2`, by layer.

    Of the raw gradients, before coordination, as :func:`pairwise_cosines`: the two
    together give every inner product back. Float32, without under- or overflow of
    squares. Two passes over the gradients.

    Args:
      updates: per-objective gradients, leaves ``(K, *shape)``.
      granularity: "tensor", norms for each leaf, or "global", of all leaves as one.

    Returns:
      A mapping from a leaf's path (or "global") to ``(K,)`` float32, a pytree with one
      array.

    Raises:
      ValueError: leaves without a common objective axis, or another granularity.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.diagnostics import gradient_norms
      >>> grads = {"a": jnp.array([[3.0], [0.0]]), "b": jnp.array([[4.0], [2.0]])}
      >>> gradient_norms(grads, "global")["global"].tolist()
      [5.0, 2.0]
    """
    leaves, _ = _checked(updates, granularity)
    if not leaves:
        return stand_in()
    unit = _nonzero(_units(leaves, granularity))
    squares = [
        jnp.sum((_vectors(leaf) / unit[:, index, None]) ** 2, axis=1)
        for index, leaf in enumerate(leaves.values())
    ]
    square = jnp.stack(squares, axis=-1)  # (K, L)
    if granularity == GLOBAL:
        square, unit = jnp.sum(square, axis=-1, keepdims=True), unit[:, :1]
    return ByLeaf.of_leaves(unit * jnp.sqrt(square), _names(leaves, granularity))


def _checked(
    updates: Updates, granularity: LayerGranularity
) -> tuple[dict[str, jax.Array], int]:
    check_choice("granularity", granularity, _LAYERS)
    number = check_objective_axis(updates, None)
    return named_leaves(updates), number


def _names(
    leaves: dict[str, jax.Array], granularity: LayerGranularity
) -> tuple[str, ...]:
    return (GLOBAL,) if granularity == GLOBAL else tuple(leaves)


def _units(leaves: dict[str, jax.Array], granularity: LayerGranularity) -> jax.Array:
    """The largest entry of each objective in each leaf (or in all): ``(K, leaves)``."""
    largest = jnp.stack(
        [
            jnp.max(jnp.abs(_vectors(leaf)), axis=1, initial=0.0)
            for leaf in leaves.values()
        ],
        axis=1,
    )
    if granularity == GLOBAL:
        overall = jnp.max(largest, axis=1, keepdims=True)
        largest = jnp.broadcast_to(overall, largest.shape)
    return largest


def _vectors(leaf: jax.Array) -> jax.Array:
    """``(K, *shape)`` to ``(K, n)`` float32."""
    return jax.vmap(real_vector)(jnp.asarray(leaf))


def _nonzero(values: jax.Array) -> jax.Array:
    return jnp.where(values > 0, values, 1.0)
