"""SimGCD's objectives as functions of logits and projections.

Every function takes two views of B images concatenated along axis 0: rows 0..B-1 are
view 1, rows B..2B-1 view 2 of the same images. Labels and the labeled mask are given
once per image. All return a scalar in float32 (float64 if the input is), and stay
finite, gradients included, when no row of the batch is labeled.

References:
  Wen, Zhao and Qi, "Parametric Classification for Generalized Category Discovery: A
  Baseline Study" (SimGCD), ICCV 2023.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Below this squared length a projection has no direction worth dividing by.
_MIN_SQUARED_NORM = 1e-24


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
    logits = _two_views("logits", logits)
    labels, mask = _labels_of(logits, "logits", labels, labeled_mask)
    log_probs = jax.nn.log_softmax(logits / _positive("temperature", temperature))
    # An unlabeled row's label may be no index at all: read entry 0 and discard it.
    picked = jnp.take_along_axis(log_probs, jnp.where(mask, labels, 0)[:, None], 1)
    return _masked_mean(-picked[:, 0], mask)


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
    projections = _two_views("projections", projections)
    labels, mask = _labels_of(projections, "projections", labels, labeled_mask)
    similarity = _cosines(projections) / _positive("temperature", temperature)
    other = ~jnp.eye(len(similarity), dtype=bool)
    candidates = other & mask[None, :]
    positives = candidates & (labels[:, None] == labels[None, :])
    log_probs = similarity - _masked_logsumexp(similarity, candidates)[:, None]
    # `where` inside the sum: a masked entry reaches neither value nor gradient.
    total = jnp.sum(jnp.where(positives, log_probs, 0), axis=1)
    per_row = -total / jnp.maximum(positives.sum(axis=1), 1)
    return _masked_mean(per_row, mask)


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
    projections = _two_views("projections", projections)
    similarity = _cosines(projections) / _positive("temperature", temperature)
    rows = jnp.arange(len(similarity))
    other = rows[:, None] != rows[None, :]
    positive = similarity[rows, (rows + len(rows) // 2) % len(rows)]
    return jnp.mean(_masked_logsumexp(similarity, other) - positive)


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
    logits = _two_views("logits", logits)
    teacher = _two_views("teacher_logits", teacher_logits)
    if teacher.shape != logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of logits, {logits.shape}, "
            f"got {teacher.shape}"
        )
    sharpness = _positive("teacher_temperature", teacher_temperature)
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher) / sharpness)
    other_view = jnp.roll(targets, len(targets) // 2, axis=0)
    student_temperature = _positive("student_temperature", student_temperature)
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
    logits = _two_views("logits", logits)
    log_probs = jax.nn.log_softmax(logits / _positive("temperature", temperature))
    # In the log domain: a class that nobody predicts keeps a finite logarithm.
    log_mean = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(logits))
    return jnp.log(logits.shape[1]) + jnp.sum(jnp.exp(log_mean) * log_mean)


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


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(mask.sum(), 1)


def _two_views(name: str, rows: ArrayLike) -> jax.Array:
    rows = jnp.asarray(rows)
    if rows.ndim != 2 or len(rows) == 0 or len(rows) % 2:
        raise ValueError(
            f"{name} must have shape (2B, features), two views of B >= 1 images "
            f"stacked along axis 0, got {rows.shape}"
        )
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {rows.dtype}")
    return rows.astype(jnp.promote_types(rows.dtype, jnp.float32))


def _labels_of(
    rows: jax.Array, name: str, labels: ArrayLike, labeled_mask: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Checks the per-image arrays and repeats them for the two views."""
    labels, mask = jnp.asarray(labels), jnp.asarray(labeled_mask)
    expected = (len(rows) // 2,)
    for which, array in (("labels", labels), ("labeled_mask", mask)):
        if array.shape != expected:
            raise ValueError(
                f"{which} must have shape {expected}, one entry per image, because "
                f"{name} has {len(rows)} rows; got {array.shape}"
            )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"labeled_mask must be boolean, got {mask.dtype}")
    return jnp.tile(labels, 2), jnp.tile(mask, 2)


def _positive(name: str, value: ArrayLike) -> ArrayLike:
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
