"""What each discovered cluster turned out to be: numbers, nothing is drawn here."""

import dataclasses
from collections.abc import Collection

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One discovered cluster, compared with the true classes."""

    id: int
    size: int
    matched: int | None  # class of the one-to-one matching; None where none is left
    known: bool | None  # whether the matched class is known; None without a match
    correct: int  # images of the matched class
    majority: int  # the most frequent class
    purity: float  # share of the most frequent class, in (0, 1]


def describe_clusters(
    labels: np.ndarray, predictions: np.ndarray, known_classes: Collection[int]
) -> list[Cluster]:
    """Matches clusters to classes and counts, for every non-empty cluster.

    The matching is the one that `metrics.cluster_accuracy` scores. A cluster that was
    paired with a class of which it holds no image counts as unmatched: that pairing
    is an artefact of the square assignment problem and means nothing.

    Args:
      labels: (N,) integers >= 0, true classes.
      predictions: (N,) integers >= 0, cluster of each image.
      known_classes: the classes of which labeled images were available.

    Returns:
      Clusters in increasing order of their id.

    Examples:
      >>> a, b = describe_clusters(np.array([0, 0, 1]), np.array([1, 1, 0]), {0})
      >>> (a.id, a.matched, a.known), (b.id, b.matched, b.known)
      ((0, 1, False), (1, 0, True))
    """
    side = int(max(labels.max(), predictions.max())) + 1
    counts = np.zeros((side, side), np.int64)
    np.add.at(counts, (predictions, labels), 1)
    partner = dict(
        zip(*(i.tolist() for i in linear_sum_assignment(counts, True)), strict=True)
    )
    return [
        _describe(cluster, counts[cluster], partner[cluster], known_classes)
        for cluster in np.flatnonzero(counts.sum(axis=1)).tolist()
    ]


def _describe(
    cluster: int, counts: np.ndarray, partner: int, known_classes: Collection[int]
) -> Cluster:
    size, correct = int(counts.sum()), int(counts[partner])
    matched = partner if correct else None
    return Cluster(
        id=cluster,
        size=size,
        matched=matched,
        known=None if matched is None else matched in known_classes,
        correct=correct,
        majority=int(counts.argmax()),
        purity=float(counts.max() / size),
    )


def most_telling(clusters: list[Cluster], limit: int) -> list[Cluster]:
    """At most `limit` clusters: the largest ones, novel ones preferred two to one.

    Discovery is about the novel classes, so these come first; a third of the places
    stays with the others, as long as there are enough of both kinds. Unmatched
    clusters come last.
    """
    by_size = sorted(clusters, key=lambda c: (-c.size, c.id))
    novel = [c for c in by_size if c.known is False]
    others = sorted((c for c in by_size if c.known is not False), key=_unmatched)
    places = max(limit - limit // 3, limit - len(others))
    chosen = novel[:places] + others[: limit - min(places, len(novel))]
    rank = {False: 0, True: 1, None: 2}
    return sorted(chosen, key=lambda c: (rank[c.known], c.matched or 0, c.id))


def _unmatched(cluster: Cluster) -> bool:
    return cluster.matched is None
