"""AutoNovel's losses from rank statistics, and their objectives with one classifier.

AutoNovel (RankStats) discovers classes by pairs: two unlabeled images whose features
have the same strongest channels should get the same class.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from eagc_jax.gcd.losses._checks import masked_mean, positive, two_views
from eagc_jax.gcd.losses.classification import labeled_cross_entropy

#: What channels are ranked by.
Ranking = Literal["value", "magnitude"]

# Keeps the logarithm of a pair finite: no pair costs more than -log(1e-7) = 16.
_LOG_OFFSET = 1e-7


def rank_statistics(
    features: ArrayLike,
    top_k: int = 5,
    *,
    by: Ranking = "value",
) -> jax.Array:
    r"""Which pairs of rows have the same set of strongest channels.

    `t_ij = 1 if top_k(z_i) = top_k(z_j) as sets else 0`, where `top_k` gives the numbers
    of the `top_k` largest entries, the lowest number first among equals. No gradient
    flows.

    AutoNovel takes the largest values of features behind a ReLU, where value and
    magnitude are the same. A vision transformer's features have signs: by value (the
    default), a strongly negative channel counts as weak; by magnitude it counts as
    strong, and then two rows with opposite signs in the same channels count as alike.

    Args:
      features: (B, D) floats, one view.
      top_k: channels to compare, in [1, D].
      by: what the channels are ranked by.

    Returns:
      (B, B) booleans, symmetric, True on the diagonal.

    Raises:
      ValueError: `features` is not (B, D) floats, or `top_k` or `by` is out of range.

    Examples:
      The order within the strongest two doesn't matter:

      >>> rows = jnp.array([[3.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 2.0, 3.0]])
      >>> rank_statistics(rows, top_k=2)[0].tolist()
      [True, True, False]

    References:
      Han et al., "Automatically Discovering and Learning New Visual Categories with
      Ranking Statistics" (AutoNovel), ICLR 2020.
    """
    features = jax.lax.stop_gradient(jnp.asarray(features))
    if features.ndim != 2 or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(
            f"features must be floats of shape (B, D), got {features.dtype} of shape "
            f"{features.shape}"
        )
    if not 1 <= top_k <= features.shape[1]:
        raise ValueError(f"top_k must be in [1, {features.shape[1]}], got {top_k}")
    if by not in get_args(Ranking):
        raise ValueError(f'by must be "value" or "magnitude", got {by!r}')
    _, channels = jax.lax.top_k(
        jnp.abs(features) if by == "magnitude" else features, top_k
    )
    rows = jnp.arange(len(features))[:, None]
    # Multi-hot: the products count shared channels, exactly, and all are shared by
    # equal sets alone.
    chosen = jnp.zeros(features.shape, jnp.float32).at[rows, channels].set(1)
    return chosen @ chosen.T > top_k - 0.5


def pairwise_bce(
    probabilities: ArrayLike,
    other_probabilities: ArrayLike,
    pairs: ArrayLike,
    mask: ArrayLike,
) -> jax.Array:
    r"""Binary cross-entropy of "same class" over pairs of rows.

    With `s_ij = p_i . q_j`, the probability that two independent draws agree, the mean
    over the pairs (i, j) in `mask` of `-log s_ij` where `pairs` holds and
    `-log(1 - s_ij)` elsewhere; zero without pairs. To each argument of a logarithm 1e-7
    is added.

    Args:
      probabilities: (B, C) floats p; rows sum to one.
      other_probabilities: (B, C) floats q, e.g. of the other view.
      pairs: (B, B) booleans, True where the rows i of p and j of q should agree.
      mask: (B, B) booleans, the pairs that count.

    Returns:
      Scalar loss.

    Raises:
      ValueError: a wrong shape or dtype.

    Examples:
      Nobody knows anything: each pair agrees with probability one half.

      >>> p, every = jnp.full((2, 2), 0.5), jnp.ones((2, 2), bool)
      >>> print(f"{pairwise_bce(p, p, jnp.eye(2, dtype=bool), every):.3f}")
      0.693

    References:
      AutoNovel, see `rank_statistics`.
    """
    first = _rows("probabilities", probabilities)
    second = _rows("other_probabilities", other_probabilities)
    if second.shape != first.shape:
        raise ValueError(
            f"other_probabilities must have the shape of probabilities, {first.shape}, "
            f"got {second.shape}"
        )
    pairs, mask = jnp.asarray(pairs), jnp.asarray(mask)
    for name, array in (("pairs", pairs), ("mask", mask)):
        if array.shape != (len(first),) * 2 or array.dtype != jnp.bool_:
            raise ValueError(
                f"{name} must be booleans of shape {(len(first),) * 2}, got "
                f"{array.dtype} of shape {array.shape}"
            )
    same = jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST)
    # Rounding may lift `same` above one.
    likelihood = jnp.where(pairs, same, jnp.maximum(1 - same, 0))
    return masked_mean(-jnp.log(likelihood + _LOG_OFFSET), mask)


def consistency(probabilities: ArrayLike, other_probabilities: ArrayLike) -> jax.Array:
    r"""Mean squared difference of two views' predictions, `mean_ic (p_ic - q_ic)^2`.

    Args:
      probabilities: (B, C) floats p.
      other_probabilities: (B, C) floats q; both sides get a gradient.

    Returns:
      Scalar loss in [0, 2 / C].

    Raises:
      ValueError: a wrong shape or dtype.

    Examples:
      >>> print(consistency(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])))
      1.0

    References:
      AutoNovel, see `rank_statistics`.
    """
    first = _rows("probabilities", probabilities)
    second = _rows("other_probabilities", other_probabilities)
    if second.shape != first.shape:
        raise ValueError(
            f"other_probabilities must have the shape of probabilities, {first.shape}, "
            f"got {second.shape}"
        )
    return jnp.mean((first - second) ** 2)


def sigmoid_rampup(epoch: ArrayLike, length: float) -> jax.Array:
    r"""A weight that rises from `exp(-5)` to 1, `exp(-5 (1 - epoch / length)^2)`.

    Args:
      epoch: scalar, may be traced; below 0 counts as 0, above `length` as `length`.
      length: epochs until the weight is 1; 0 gives 1 at once.

    Returns:
      Scalar in [exp(-5), 1], float32.

    Raises:
      ValueError: `length` is negative.

    Examples:
      >>> [round(float(sigmoid_rampup(epoch, 50)), 3) for epoch in (0, 25, 50, 99)]
      [0.007, 0.287, 1.0, 1.0]

    References:
      Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.
    """
    if not length >= 0:
        raise ValueError(f"length must be at least 0, got {length}")
    if length == 0:
        return jnp.ones((), jnp.float32)
    done = jnp.clip(jnp.asarray(epoch, jnp.float32) / length, 0, 1)
    return jnp.exp(-5 * (1 - done) ** 2)


def rankstats_objectives(
    logits: ArrayLike,
    features: ArrayLike,
    labels: ArrayLike,
    labeled_mask: ArrayLike,
    *,
    consistency_weight: ArrayLike,
    temperature: ArrayLike = 1.0,
    top_k: int = 5,
    by: Ranking = "value",
    pair_labeled: bool = False,
    num_known: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""RankStats' supervised and unsupervised objective with one classifier.

    - Supervised: `labeled_cross_entropy` of both views, over the known classes where
      their number is given. Over all classes it would push every novel class's logit
      down on every labeled row, with nothing to push it up again.
    - Unsupervised: `pairwise_bce(p, q, t, pairs) + consistency_weight consistency(p, q)`
      with p and q the two views' softmax over all classes, known and novel, and t the
      `rank_statistics` of the first view's features. A row's pair with its own other
      view counts. Consistency is over all rows.

    AutoNovel has a second head for novel classes, because none of its unlabeled images
    is of a known class. Here any may be, so that pairs are predicted over all
    classes. Its term that teaches the first head what the second predicts has no
    meaning with one head, and is left out.

    Args:
      logits: (2B, C) floats.
      features: (2B, D) floats, what the rank statistics are of.
      labels: (B,) integers; in [0, C) on labeled rows, anything (e.g. -1) elsewhere.
      labeled_mask: (B,) booleans, True where the label is known.
      consistency_weight: scalar, may be traced: a constant times `sigmoid_rampup`.
      temperature: positive scalar that divides the logits; 1 for a linear classifier,
        0.1 for cosines.
      top_k: channels that the rank statistics compare.
      by: what these are ranked by, see `rank_statistics`.
      pair_labeled: count pairs of a labeled and an unlabeled row too.
      num_known: how many of the classes, the first ones, are known; may be traced. None
        for a cross-entropy over all classes.

    Returns:
      Two scalars; the supervised one is zero without labeled rows, the pairs' part of
      the other without unlabeled ones.

    Raises:
      ValueError: a wrong shape, dtype or number.

    Examples:
      >>> supervised, unsupervised = rankstats_objectives(
      ...     jnp.zeros((4, 10)),  # undecided
      ...     jnp.ones((4, 8)),  # all alike
      ...     jnp.array([3, -1]),
      ...     jnp.array([True, False]),
      ...     consistency_weight=1.0,
      ... )
      >>> print(f"{supervised:.3f} {unsupervised:.3f}")  # log 10 both
      2.303 2.303

    References:
      AutoNovel, see `rank_statistics`; Vaze et al., "Generalized Category Discovery",
      CVPR 2022, where the adaptation is the baseline RankStats+ (no code was released).
    """
    logits = two_views("logits", logits)
    features = two_views("features", features)
    if len(features) != len(logits):
        raise ValueError(
            f"features must have as many rows as logits, {len(logits)}, got "
            f"{len(features)}"
        )
    supervised = labeled_cross_entropy(
        _known_only(logits, num_known), labels, labeled_mask, temperature=temperature
    )
    unlabeled = ~jnp.asarray(labeled_mask)
    if pair_labeled:
        counted = unlabeled[:, None] | unlabeled[None, :]
    else:
        counted = unlabeled[:, None] & unlabeled[None, :]
    first, second = jnp.split(
        jax.nn.softmax(logits / positive("temperature", temperature)), 2
    )
    same = rank_statistics(jnp.split(features, 2)[0], top_k, by=by)
    return supervised, pairwise_bce(
        first, second, same, counted
    ) + consistency_weight * consistency(first, second)


def _known_only(logits: jax.Array, num_known: ArrayLike | None) -> jax.Array:
    if num_known is None:
        return logits
    # Finite, so that no product with it is NaN; exp() of it is 0.
    return jnp.where(jnp.arange(logits.shape[1]) < num_known, logits, -1e9)


def _rows(name: str, values: ArrayLike) -> jax.Array:
    values = jnp.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must have shape (B, C), B, C >= 1, got {values.shape}"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {values.dtype}")
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
