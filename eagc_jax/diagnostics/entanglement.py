"""Gradient deviation (GDC) and subspace overlap (SOC)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_rows, check_same_names
from eagc_jax._trees import named_leaves
from eagc_jax.typing import Updates


def gradient_deviation(supervised: Updates, unsupervised: Updates) -> jax.Array:
    r"""GDC: how far the unsupervised gradient turns the supervised one.

    .. math:: \mathrm{GDC} = 1 - \cos(g_s,\ g_s + g_u) \in [0, 2]

    over all leaves as one vector. Of the raw gradients, before coordination: with anchor
    alignment a common vector would be in both arguments of the cosine. The authors take
    the last transformer block's parameters and the mean over the first 200 steps.

    Computed as half the squared distance of the unit vectors, which keeps figures as
    small as 1e-7 (1 - cos in float32 does not), and in units of the largest entry: the
    gradients' common scale doesn't matter. Three passes over the gradients.

    Args:
      supervised: g_s, any pytree of arrays.
      unsupervised: g_u, a tree like it, with the loss weights already in it.

    Returns:
      A float32 scalar; 1 where either vector is zero (of a batch without labeled rows,
      say: leave such steps out of a mean).

    Raises:
      ValueError: trees of different leaves or shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.diagnostics import gradient_deviation
      >>> g_s, g_u = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
      >>> round(float(gradient_deviation(g_s, g_u)), 4)  # 45 degrees
      0.2929

    References:
      EAGC, CVPR 2026, arXiv 2604.14176.
    """
    alone, other = named_leaves(supervised), named_leaves(unsupervised)
    check_same_names(other, alone, "unsupervised", "supervised")
    for name, leaf in alone.items():
        if np.shape(other[name]) != np.shape(leaf):
            raise ValueError(
                f"leaf '{name}' has shape {np.shape(other[name])} in unsupervised and "
                f"{np.shape(leaf)} in supervised; they must be equal."
            )
    first = [real_vector(leaf) for leaf in alone.values()]
    second = [real_vector(other[name]) for name in alone]
    # In one unit, before the sum: a sum of tiny numbers would be no less exact, but that
    # of huge ones overflow.
    unit = _nonzero(jnp.maximum(_largest(first), _largest(second)))
    both = [a / unit + b / unit for a, b in zip(first, second, strict=True)]
    first, long = _unit(first)
    both, also = _unit(both)
    square = sum(
        (jnp.sum((a - b) ** 2) for a, b in zip(first, both, strict=True)),
        start=jnp.zeros((), jnp.float32),
    )
    return jnp.where(long & also, square / 2, 1.0)


def subspace_overlap(
    old_features: jax.Array,
    new_features: jax.Array,
    k: int = 16,
    *,
    old_mask: jax.Array | None = None,
    new_mask: jax.Array | None = None,
) -> jax.Array:
    r"""SOC: the share of new classes' features inside the old ones' main directions.

    Rows are divided by their length, and both sets centred by the **old** mean. With
    :math:`V_k` the top k principal directions of the old:

    .. math:: \mathrm{SOC} = \lVert Z_{new} V_k V_k^T \rVert_F^2 /
      \lVert Z_{new} \rVert_F^2 \in [0, 1]

    Isotropic features have k / D. Which rows are of new classes is ground truth: this is
    for diagnosis. The authors take all labeled and all novel images with the test
    transform.

    One D x D eigendecomposition and two passes over the features,
    :math:`O(N D^2 + D^3)`: for D = 768 about the work of a training step of a ViT-B on
    a few images. Log it each epoch or each few hundred steps.

    Args:
      old_features: ``(N, D)``, any float dtype.
      new_features: ``(M, D)``.
      k: number of directions; at D or above the overlap is that with all that the old
        features span. Directions in which they don't vary never count.
      old_mask: ``(N,)`` bool, rows to use, for fixed shapes under ``jit``; None for all.
      new_mask: ``(M,)`` bool, the same.

    Returns:
      A float32 scalar; 0 where no new row is used.

    Raises:
      ValueError: shapes that don't fit together, or k below 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.diagnostics import subspace_overlap
      >>> old = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
      >>> new = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
      >>> float(subspace_overlap(old, new, k=1))
      0.5

    References:
      EAGC, CVPR 2026, arXiv 2604.14176; details as in the authors' code.
    """
    shapes = np.shape(old_features), np.shape(new_features)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"old_features and new_features must be (N, D) and (M, D), got {shapes}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    old, used = _rows(old_features, old_mask, "old_mask")
    new, counted = _rows(new_features, new_mask, "new_mask")
    number = jnp.maximum(jnp.sum(used, dtype=jnp.int32), 1).astype(jnp.float32)
    mean = jnp.sum(old, axis=0) / number
    old = jnp.where(used[:, None], old - mean[None], 0.0)
    new = jnp.where(counted[:, None], new - mean[None], 0.0)
    values, vectors = jnp.linalg.eigh(jnp.matmul(old.T, old, precision="highest"))
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]  # largest first
    # What float32 leaves of a zero.
    rounding = shapes[0][1] * jnp.finfo(jnp.float32).eps * values[0]
    inside = jnp.matmul(new, vectors, precision="highest")
    inside = jnp.where(values > rounding, inside, 0.0)
    total = jnp.sum(new * new)
    share = jnp.sum(inside * inside) / _nonzero(total)
    return jnp.clip(share, 0.0, 1.0)


def real_vector(leaf: jax.typing.ArrayLike) -> jax.Array:
    """All entries flat, in float32; of complex ones the real and imaginary parts."""
    flat = jnp.asarray(leaf).reshape(-1)
    if jnp.issubdtype(flat.dtype, jnp.complexfloating):
        flat = jnp.concatenate([flat.real, flat.imag])
    return flat.astype(jnp.float32)


def _rows(
    features: jax.typing.ArrayLike, mask: jax.typing.ArrayLike | None, name: str
) -> tuple[jax.Array, jax.Array]:
    """Rows of length 1 (zero ones stay), 0 where masked out; and the mask."""
    rows = jnp.asarray(features).astype(jnp.float32)
    if mask is None:
        mask = jnp.ones(rows.shape[:1], bool)
    mask = check_rows(name, mask, rows.shape[0])
    rows = jnp.where(mask[:, None], rows, 0.0)
    rows = rows / _nonzero(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
    return rows / _nonzero(jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))), mask


def _largest(parts: list[jax.Array]) -> jax.Array:
    return jnp.max(
        jnp.stack(
            [jnp.zeros((), jnp.float32)]
            + [jnp.max(jnp.abs(part), initial=0.0) for part in parts]
        )
    )


def _unit(parts: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """One vector in parts, divided by its length; and whether it has one."""
    largest = _largest(parts)
    parts = [part / _nonzero(largest) for part in parts]
    square = sum(
        (jnp.sum(part * part) for part in parts), start=jnp.zeros((), jnp.float32)
    )
    return [part / _nonzero(jnp.sqrt(square)) for part in parts], largest > 0


def _nonzero(values: jax.Array) -> jax.Array:
    return jnp.where(values > 0, values, 1.0)
