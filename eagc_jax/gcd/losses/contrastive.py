"""Contrastive losses of projections, supervised and not; vanilla GCD's objectives."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from eagc_jax.gcd.losses._checks import labels_of, masked_mean, positive, two_views

# Below this squared length a projection has no direction worth dividing by.
_MIN_SQUARED_NORM = 1e-24


def supervised_contrastive(
    projections: ArrayLike,
    labels: ArrayLike,
    labeled_mask: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
) -> jax.Array:
    r"""Pull labeled rows of one class together, away from the other labeled rows.

    With `u` the l2-normalised projections and `P(i)` the other labeled rows of row i's
    class, the mean over labeled i of
    `-mean_{p in P(i)} log( exp(u_i u_p / t) / sum_{a != i} exp(u_i u_a / t) )`, where
    `a` runs over labeled rows. A row without a positive counts as zero.

    Args:
      projections: (2B, D) floats; normalised here.
      labels: (B,) integers; anything on unlabeled rows.
      labeled_mask: (B,) booleans, True where the label is known.
      temperature: positive scalar t.

    Returns:
      Scalar loss.

    Raises:
      ValueError: a wrong shape or dtype, or a temperature <= 0.

    Examples:
      Two classes whose projections are orthogonal are as good as separated:

      >>> u = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
      >>> mask = jnp.array([True, True])
      >>> bool(supervised_contrastive(u, jnp.array([0, 1]), mask) < 1e-5)
      True

    References:
      Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
    """
    projections = two_views("projections", projections)
    labels, mask = labels_of(projections, "projections", labels, labeled_mask)
    similarity = _cosines(projections) / positive("temperature", temperature)
    other = ~jnp.eye(len(similarity), dtype=bool)
    candidates = other & mask[None, :]
    positives = candidates & (labels[:, None] == labels[None, :])
    log_probs = similarity - _masked_logsumexp(similarity, candidates)[:, None]
    # `where` inside the sum: a masked entry reaches neither value nor gradient.
    total = jnp.sum(jnp.where(positives, log_probs, 0), axis=1)
    per_row = -total / jnp.maximum(positives.sum(axis=1), 1)
    return masked_mean(per_row, mask)


def info_nce(projections: ArrayLike, *, temperature: ArrayLike = 1.0) -> jax.Array:
    r"""Recognise an image's other view among all other rows of the batch.

    `mean_i -log( exp(u_i u_j / t) / sum_{a != i} exp(u_i u_a / t) )` with `j` the other
    view of row i and `u` the l2-normalised projections.

    Args:
      projections: (2B, D) floats; normalised here.
      temperature: positive scalar t.

    Returns:
      Scalar loss; at most `log(2B - 1)` once views agree better than strangers do.

    Raises:
      ValueError: `projections` is not (2B, D), or a temperature <= 0.

    Examples:
      One image has nothing to be confused with:

      >>> print(info_nce(jnp.ones((2, 3))))
      0.0

    References:
      Chen et al., "A Simple Framework for Contrastive Learning of Visual
      Representations", ICML 2020.
    """
    projections = two_views("projections", projections)
    similarity = _cosines(projections) / positive("temperature", temperature)
    rows = jnp.arange(len(similarity))
    other = rows[:, None] != rows[None, :]
    other_view = similarity[rows, (rows + len(rows) // 2) % len(rows)]
    return jnp.mean(_masked_logsumexp(similarity, other) - other_view)


def vanilla_gcd_objectives(
    projections: ArrayLike,
    labels: ArrayLike,
    labeled_mask: ArrayLike,
    *,
    supervised_temperature: ArrayLike = 0.07,
    unsupervised_temperature: ArrayLike = 1.0,
) -> tuple[jax.Array, jax.Array]:
    r"""Vanilla GCD's supervised and unsupervised objective, before weighting.

    `supervised_contrastive` of the labeled rows and `info_nce` of all rows, labeled ones
    included. The published weights are 0.35 and 0.65.

    Args:
      projections: (2B, D) floats; normalised here.
      labels: (B,) integers; anything (e.g. -1) on unlabeled rows.
      labeled_mask: (B,) booleans, True where the label is known.
      supervised_temperature: positive scalar.
      unsupervised_temperature: positive scalar.

    Returns:
      Two scalars.

    Raises:
      ValueError: a wrong shape or dtype, or a temperature <= 0.

    Examples:
      Nothing is labeled, so the supervised objective is zero:

      >>> supervised, unsupervised = vanilla_gcd_objectives(
      ...     jnp.eye(4), jnp.full(2, -1), jnp.zeros(2, bool)
      ... )
      >>> print(f"{supervised:.3f} {unsupervised:.3f}")  # log 3: all rows are alike
      0.000 1.099

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    supervised = supervised_contrastive(
        projections, labels, labeled_mask, temperature=supervised_temperature
    )
    return supervised, info_nce(projections, temperature=unsupervised_temperature)


def _cosines(projections: jax.Array) -> jax.Array:
    squared = jnp.sum(projections**2, axis=1, keepdims=True)
    unit = projections * jax.lax.rsqrt(jnp.maximum(squared, _MIN_SQUARED_NORM))
    # Divided by temperatures around 0.1, a bfloat16 product would be too coarse.
    return jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)


def _masked_logsumexp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Log of the sum over axis 1 where `mask` holds; zero where it holds nowhere."""
    some = mask.any(axis=1)
    # A row without entries would give -inf and NaN gradients: sum over all of it.
    safe = jnp.where(mask | ~some[:, None], values, -jnp.inf)
    return jnp.where(some, jax.nn.logsumexp(safe, axis=1), 0)
