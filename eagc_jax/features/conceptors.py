"""Conceptors: the subspace that features use, as a soft projection."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_rows, concrete
from eagc_jax._states import check_kind


class SecondMoment(NamedTuple):
    """The second moment of features seen so far, for those that don't fit at once."""

    total: jax.Array  # shape=(D, D), float32: sum of z z^T over the rows.
    weight: jax.Array  # shape=(), float32: number of rows, less what decayed.


def init_moment(dim: int) -> SecondMoment:
    """An empty second moment of features of ``dim`` channels.

    Args:
      dim: D, a Python int.

    Returns:
      Zeros; the conceptor of these is 0.

    Raises:
      ValueError: ``dim`` below 1.

    Examples:
      >>> from eagc_jax.features import init_moment
      >>> init_moment(3).total.shape
      (3, 3)
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    return SecondMoment(jnp.zeros((dim, dim), jnp.float32), jnp.zeros((), jnp.float32))


def add_features(
    moment: SecondMoment,
    features: jax.Array,
    mask: jax.Array | None = None,
    *,
    decay: jax.typing.ArrayLike = 1.0,
    normalize: bool = False,
    center: jax.Array | None = None,
) -> SecondMoment:
    r"""Adds a batch of features to a second moment.

    .. math:: S \leftarrow d\,S + \sum_i m_i z_i z_i^T, \qquad
      n \leftarrow d\,n + \sum_i m_i

    Without decay, batch after batch gives what all rows at once give.

    Args:
      moment: what was seen so far.
      features: ``(N, D)``, any float dtype.
      mask: ``(N,)`` bool, the rows to add; None for all. Rows left out may hold
        anything.
      decay: d in [0, 1], what is kept of the moment so far at each call.
      normalize: whether rows are divided by their length first.
      center: ``(D,)`` to subtract (after the division), or None.

    Returns:
      The new moment.

    Raises:
      ValueError: shapes that don't fit together.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import add_features, init_moment
      >>> moment = add_features(init_moment(2), jnp.array([[1.0, 2.0], [3.0, 0.0]]))
      >>> moment.total.tolist(), float(moment.weight)
      ([[10.0, 2.0], [2.0, 4.0]], 2.0)
    """
    check_kind(moment, SecondMoment)
    dim = moment.total.shape[0]
    if np.ndim(features) != 2 or np.shape(features)[1] != dim:
        raise ValueError(
            f"features must be (N, {dim}) as the moment is, got {np.shape(features)}; "
            "flatten leading axes first."
        )
    rows = structured(features, normalize, center)
    count = jnp.float32(rows.shape[0])
    if mask is not None:
        mask = check_rows("mask", mask, rows.shape[0])
        rows = jnp.where(mask[:, None], rows, 0.0)
        count = jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)
    kept = jnp.asarray(decay, jnp.float32)
    outer = jnp.matmul(rows.T, rows, precision="highest")
    return SecondMoment(kept * moment.total + outer, kept * moment.weight + count)


def conceptor_from_moment(
    moment: SecondMoment, aperture: jax.typing.ArrayLike = 2.0
) -> jax.Array:
    """The conceptor of the features that a second moment has seen.

    See :func:`conceptor`, which it equals. One eigendecomposition, O(D^3).

    Args:
      moment: from :func:`init_moment` and :func:`add_features`.
      aperture: alpha > 0.

    Returns:
      C, ``(D, D)`` float32; 0 where nothing was seen.

    Raises:
      ValueError: an aperture that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import add_features, conceptor_from_moment, init_moment
      >>> moment = add_features(init_moment(1), jnp.array([[0.5], [0.5]]))
      >>> conceptor_from_moment(moment, aperture=2.0).tolist()
      [[0.5]]
    """
    known = concrete(aperture)
    if known is not None and not known > 0:
        raise ValueError(f"aperture must be positive, got {aperture!r}.")
    seen = moment.weight > 0
    correlation = moment.total / jnp.where(seen, moment.weight, 1.0)
    values, vectors = jnp.linalg.eigh(correlation)  # symmetrises its argument
    values = jnp.maximum(values, 0.0)  # rounding can put them below
    # In float32 the vectors are orthonormal to some ten roundings, which would go into
    # C's eigenvalues; one Newton-Schulz step leaves one or two.
    excess = jnp.matmul(vectors.T, vectors, precision="highest")
    excess = excess - jnp.eye(len(values), dtype=excess.dtype)
    vectors = vectors - jnp.matmul(vectors, excess / 2, precision="highest")
    soft = values / (values + jnp.asarray(aperture, jnp.float32) ** -2)
    result = jnp.matmul(vectors * soft[None], vectors.T, precision="highest")
    # A product of floats is symmetric only to rounding.
    return jnp.where(seen, (result + result.T) / 2, 0.0)


def conceptor(
    features: jax.Array,
    aperture: jax.typing.ArrayLike = 2.0,
    *,
    normalize: bool = False,
    center: jax.Array | None = None,
) -> jax.Array:
    r"""The conceptor of a set of features: a soft projection onto what they span.

    .. math:: R = Z^T Z / N, \qquad C = R (R + \alpha^{-2} I)^{-1}

    C is symmetric; a direction along which the features have mean square
    :math:`\lambda` has the eigenvalue :math:`\lambda / (\lambda + \alpha^{-2})` in
    [0, 1). So the aperture has the unit of 1 / feature: features twice as long give what
    twice the aperture gives. Rows of length 1 have :math:`\mathrm{tr}\,R = 1`; to treat
    them as rows whose channels have mean square 1, multiply the aperture by
    :math:`\sqrt D`.

    Args:
      features: Z, ``(N, D)``, any float dtype. The released code: raw CLS features of
        the reference model over the labeled set.
      aperture: alpha > 0; the published value is 2.
      normalize: whether rows are divided by their length first.
      center: ``(D,)`` to subtract from the rows (after the division), or None. With it,
        C is of the covariance; give the same to :func:`energy_ratio` and to
        :func:`init_coordinator`.

    Returns:
      C, ``(D, D)`` float32. For features that don't fit at once see
      :func:`add_features`.

    Raises:
      ValueError: features that aren't (N, D), or an aperture that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import conceptor
      >>> z = jnp.array([[1.0, 0.0], [0.0, 0.5]])  # R = diag(1/2, 1/8)
      >>> conceptor(z, aperture=2.0).round(4)
      Array([[0.6667, 0.    ],
             [0.    , 0.3333]], dtype=float32)

    References:
      Jaeger, *Controlling recurrent neural networks by conceptors*, 2014. EAGC, CVPR
      2026, arXiv 2604.14176.
    """
    if np.ndim(features) != 2 or 0 in np.shape(features):
        raise ValueError(
            f"features must be (N, D) with at least one row, got {np.shape(features)}."
        )
    moment = init_moment(np.shape(features)[1])
    moment = add_features(moment, features, normalize=normalize, center=center)
    return conceptor_from_moment(moment, aperture)


def energy_ratio(
    features: jax.Array,
    conceptor: jax.Array,
    *,
    normalize: bool = False,
    center: jax.Array | None = None,
) -> jax.Array:
    r"""How much of each feature's energy lies in the conceptor's subspace.

    .. math:: e(z) = \mathrm{clip}(z^T C z / \lVert z \rVert^2,\ 0,\ 1)

    The length of z doesn't matter, however small; a zero row has 0. (The released code
    divides by at least 1e-12: the same for every :math:`\lVert z \rVert > 10^{-6}`.)

    Args:
      features: ``(..., D)``, any float dtype.
      conceptor: C, ``(D, D)``.
      normalize: as for :func:`conceptor`; without ``center`` it changes nothing.
      center: as for :func:`conceptor`.

    Returns:
      ``(...)`` float32 in [0, 1].

    Raises:
      ValueError: shapes that don't fit together.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import energy_ratio
      >>> c = jnp.diag(jnp.array([1.0, 0.0]))
      >>> energy_ratio(jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), c).tolist()
      [1.0, 0.5, 0.0]
    """
    shape = np.shape(features)
    if not shape or np.shape(conceptor) != (shape[-1], shape[-1]):
        raise ValueError(
            "conceptor must be (D, D) for features (..., D); got "
            f"{np.shape(conceptor)} for {shape}."
        )
    rows = _rescaled(structured(features, normalize, center))
    matrix = jnp.asarray(conceptor).astype(jnp.float32)
    inside = jnp.sum(jnp.matmul(rows, matrix, precision="highest") * rows, axis=-1)
    square = jnp.sum(rows * rows, axis=-1)
    return jnp.clip(inside / jnp.where(square > 0, square, 1.0), 0.0, 1.0)


def structured(
    features: jax.typing.ArrayLike, normalize: bool, center: jax.typing.ArrayLike | None
) -> jax.Array:
    """Features in float32, with rows of length 1 and less a mean where wished."""
    rows = jnp.asarray(features).astype(jnp.float32)
    if normalize:
        rows = _rescaled(rows)
        square = jnp.sum(rows * rows, axis=-1, keepdims=True)
        rows = rows / jnp.sqrt(jnp.where(square > 0, square, 1.0))
    if center is None:
        return rows
    if np.shape(center) != rows.shape[-1:]:
        raise ValueError(
            f"center must be one row, shape {rows.shape[-1:]}; got {np.shape(center)}."
        )
    return rows - jnp.asarray(center).astype(jnp.float32)[None]


def _rescaled(rows: jax.Array) -> jax.Array:
    """Rows whose largest entry is 1 in size, so that no square under- or overflows."""
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    return rows / jnp.where(largest > 0, largest, 1.0)
