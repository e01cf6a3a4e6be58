"""Anchor gradient alignment (AGA): labeled features stay near the reference model's."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_choice

# "released": as the authors' code computes; "paper": as the paper writes AGA;
# "unsupervised_only": EEP touches the unsupervised gradient alone, AGA as released.
Mode = Literal["released", "paper", "unsupervised_only"]
MODES: tuple[Mode, ...] = get_args(Mode)


def alignment_loss(
    features: jax.Array,
    reference_features: jax.Array,
    labeled_mask: jax.Array,
    weight: jax.typing.ArrayLike = 0.7,
    mode: Mode = "released",
) -> jax.Array:
    r"""The loss whose gradient at the features is anchor alignment.

    .. math::
      L = \frac{\lambda_a}{2 N_l D} \sum_{i\ \mathrm{labeled}}
          \lVert z_i - \hat z_i \rVert^2 \quad\text{(released)}, \qquad
      L = \frac{\lambda_a}{2} \sum_{i\ \mathrm{labeled}}
          \lVert z_i - \hat z_i \rVert^2 \quad\text{(paper)}

    AGA is no trick on gradients but this term. Where K objectives are pulled back one
    by one, add it to the supervised loss and coordinate with ``aga_weight=0``; and under
    loss scaling, with which it then scales.

    Args:
      features: z, ``(N, D)``, any float dtype.
      reference_features: the reference model's features of the same images, ``(N, D)``;
        no gradient flows to them.
      labeled_mask: ``(N,)`` bool, or ``(N/2,)`` for two views one after the other.
      weight: lambda_a >= 0.
      mode: as in :func:`coordinate`; "unsupervised_only" means what "released" does.

    Returns:
      A float32 scalar; 0 where no row is labeled.

    Raises:
      ValueError: shapes that don't fit together, or an unknown mode.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.features import alignment_loss
      >>> z = jnp.array([[3.0, 0.0], [5.0, 5.0]])
      >>> labeled = jnp.array([True, False])
      >>> jax.grad(alignment_loss)(z, jnp.zeros((2, 2)), labeled, weight=2.0).tolist()
      [[3.0, 0.0], [0.0, 0.0]]

    References:
      EAGC, CVPR 2026, arXiv 2604.14176.
    """
    check_features(features, reference_features)
    labeled = rows_of(labeled_mask, np.shape(features)[0])
    distance = distance_to_reference(features, reference_features, labeled)
    factor = attraction(labeled, np.shape(features)[1], weight, mode)
    return factor / 2 * jnp.sum(distance * distance)


def attraction(
    labeled: jax.Array, dim: int, weight: jax.typing.ArrayLike, mode: Mode
) -> jax.Array:
    """The factor on ``z - zhat``, float32: lambda_a, over N_l D where released."""
    check_choice("mode", mode, MODES)
    weight = jnp.asarray(weight, jnp.float32)
    if mode == "paper":
        return weight
    number = jnp.sum(labeled, dtype=jnp.int32).astype(jnp.float32)
    return weight / (jnp.maximum(number, 1.0) * dim)


def distance_to_reference(
    features: jax.Array, reference_features: jax.Array, labeled: jax.Array
) -> jax.Array:
    """``z - zhat`` in float32, 0 on rows that are not labeled."""
    reference = jax.lax.stop_gradient(jnp.asarray(reference_features))
    delta = jnp.asarray(features).astype(jnp.float32) - reference.astype(jnp.float32)
    return jnp.where(labeled[:, None], delta, 0.0)


def rows_of(labeled_mask: jax.Array, number: int) -> jax.Array:
    """The mask of all rows, ``(N,)`` bool, from that of N rows or of N/2 in two views."""
    shape = np.shape(labeled_mask)
    if shape not in ((number,), (number / 2,)):
        raise ValueError(
            f"labeled_mask must have one entry for each of the {number} rows of "
            "features, or one an image for two views one after the other; got shape "
            f"{shape}."
        )
    mask = jnp.asarray(labeled_mask).astype(bool)
    # Tiled, not concatenated: of rows that are divided over devices a concatenation is
    # made of six exchanges, a tile of one, which the losses make as well.
    return mask if shape == (number,) else jnp.tile(mask, 2)


def check_features(features: jax.Array, reference_features: jax.Array | None) -> None:
    """Raises ValueError unless both are (N, D) of one shape."""
    shape = np.shape(features)
    if len(shape) != 2:
        raise ValueError(
            f"features must be (N, D), got {shape}: use the pooled feature (the class "
            "token), or flatten leading axes."
        )
    if reference_features is not None and np.shape(reference_features) != shape:
        raise ValueError(
            "reference_features must be those of the same images and views, shape "
            f"{shape}; got {np.shape(reference_features)}."
        )
