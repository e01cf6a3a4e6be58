"""Losses of class scores: cross-entropy, self-distillation and mean entropy."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from eagc_jax.gcd.losses._checks import labels_of, masked_mean, positive, two_views


def labeled_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    labeled_mask: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
) -> jax.Array:
    r"""Cross-entropy of the labeled rows.

    `mean over labeled rows i of -log softmax(s_i / temperature)[y_i]`, zero when there
    is none.

    Args:
      logits: (2B, C) floats, the two views' class scores.
      labels: (B,) integers; in [0, C) on labeled rows, anything (e.g. -1) elsewhere.
      labeled_mask: (B,) booleans, True where the label is known.
      temperature: positive scalar that divides the logits.

    Returns:
      Scalar loss.

    Raises:
      ValueError: a wrong shape or dtype, or a temperature <= 0.

    Examples:
      >>> logits = jnp.zeros((4, 10))  # undecided: the loss is log 10
      >>> loss = labeled_cross_entropy(
      ...     logits, jnp.array([3, -1]), jnp.array([True, False])
      ... )
      >>> print(f"{loss:.3f}")
      2.303

    References:
      SimGCD, section 3.
    """
    logits = two_views("logits", logits)
    labels, mask = labels_of(logits, "logits", labels, labeled_mask)
    log_probs = jax.nn.log_softmax(logits / positive("temperature", temperature))
    # An unlabeled row's label may be no index at all: read entry 0 and discard it.
    picked = jnp.take_along_axis(log_probs, jnp.where(mask, labels, 0)[:, None], 1)
    return masked_mean(-picked[:, 0], mask)


def self_distillation(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    teacher_temperature: ArrayLike,
    student_temperature: ArrayLike = 0.1,
) -> jax.Array:
    r"""Predict, from one view, the sharpened class distribution of the other view.

    `1/2 sum_{v != w} mean_i CE(softmax(t_i^w / teacher_temperature),
    softmax(s_i^v / student_temperature))`. No gradient flows into the teacher's side,
    so `teacher_logits` may be the student's own logits.

    Args:
      logits: (2B, C) floats, the student's.
      teacher_logits: (2B, C) floats in the same row order.
      teacher_temperature: positive scalar, below the student's to sharpen; may be
        traced, for a schedule.
      student_temperature: positive scalar.

    Returns:
      Scalar loss.

    Raises:
      ValueError: a wrong shape, shapes that differ, or a temperature <= 0.

    Examples:
      >>> logits = jnp.array([[1.0, -1.0], [1.0, -1.0]])  # two views that agree
      >>> bool(self_distillation(logits, logits, teacher_temperature=0.04) < 1e-6)
      True

    References:
      Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
      ICCV 2021; SimGCD, section 3.
    """
    logits = two_views("logits", logits)
    teacher = two_views("teacher_logits", teacher_logits)
    if teacher.shape != logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of logits, {logits.shape}, "
            f"got {teacher.shape}"
        )
    sharpness = positive("teacher_temperature", teacher_temperature)
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher) / sharpness)
    other_view = jnp.roll(targets, len(targets) // 2, axis=0)
    student_temperature = positive("student_temperature", student_temperature)
    log_probs = jax.nn.log_softmax(logits / student_temperature)
    return -jnp.mean(jnp.sum(other_view * log_probs, axis=1))


def mean_entropy_regularizer(
    logits: ArrayLike, *, temperature: ArrayLike = 0.1
) -> jax.Array:
    r"""How far the batch's average prediction is from using all classes equally.

    `log C - H(p)`, p being the mean over all rows of `softmax(s / temperature)`: the
    divergence of p from the uniform distribution, zero when all classes are used
    equally often. Minimising it keeps self-distillation from collapsing.

    Args:
      logits: (2B, C) floats.
      temperature: positive scalar.

    Returns:
      Scalar loss in [0, log C].

    Raises:
      ValueError: `logits` is not (2B, C), or a temperature <= 0.

    Examples:
      >>> one_class = jnp.array([[9.0, 0.0], [9.0, 0.0]])
      >>> print(f"{mean_entropy_regularizer(one_class):.3f}")  # log 2: collapsed
      0.693

    References:
      Assran et al., "Masked Siamese Networks for Label-Efficient Learning", ECCV 2022.
    """
    logits = two_views("logits", logits)
    log_probs = jax.nn.log_softmax(logits / positive("temperature", temperature))
    # In the log domain: a class that nobody predicts keeps a finite logarithm.
    log_mean = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(logits))
    return jnp.log(logits.shape[1]) + jnp.sum(jnp.exp(log_mean) * log_mean)
