"""What the true classes say of an assignment, where somebody knows them."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from eagc_jax.gcd.evaluation.accuracy import cluster_accuracy
from eagc_jax.gcd.sources.records import Records


class Scores(NamedTuple):
    """Of the unlabeled items; a share over no item at all is NaN."""

    all: float  # clustering accuracy, in [0, 1]
    old: float  # of items of known classes
    new: float  # of items of novel ones
    ari: float  # adjusted Rand index, at most 1; 0 is what chance gives
    nmi: float  # normalised mutual information, in [0, 1]


def score(records: Records, clusters: np.ndarray) -> Scores | None:
    """Scores the unlabeled items' clusters.

    Args:
      records: N items.
      clusters: (N,) integers at least 0, of all items.

    Returns:
      The scores, or None where the true classes are not known.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> digits = sources.load("digits")
      >>> score(digits, digits.truth)
      Scores(all=1.0, old=1.0, new=1.0, ari=1.0, nmi=1.0)
    """
    if records.truth is None:
        return None
    unlabeled = ~records.labeled_mask
    truth, found = records.truth[unlabeled], np.asarray(clusters)[unlabeled]
    accuracy = cluster_accuracy(truth, found, records.old_mask[unlabeled])
    return Scores(
        *accuracy,
        float(adjusted_rand_score(truth, found)),
        float(normalized_mutual_info_score(truth, found)),
    )
