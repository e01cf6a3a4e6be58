"""What an answer got right of what was hidden, as the papers' protocol would count it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from eagc_jax.gcd.evaluation.rehearsal.hiding import Posed

_PIECES = 8  # clusters over which a class is spread, at most
_TURNS = 16  # in which hidden classes are matched


class Counts(NamedTuple):
    """Items and how many of them were right, by class."""

    classes: np.ndarray  # (h,) numbers of the hidden classes
    items: np.ndarray  # (h,) that lost their label
    right: np.ndarray  # (h,) of these, in the cluster that is matched with their class
    old_items: np.ndarray  # (V,) of visible classes, whose label was held out
    old_right: np.ndarray  # (V,)


def score(posed: Posed, clusters: np.ndarray, share: float, seed: int = 0) -> Counts:
    """Matches clusters with classes, one to one, and counts.

    The papers' protocol matches clusters with all classes at once, so that classes
    compete for clusters: a class whose items lie in a cluster where another class has
    more gets none of it. Here only the labels of the hidden classes are known, but all
    classes have to compete, as they would in the run that is rehearsed:

    - a hidden class has in each cluster the items that lost their label, over the share
      of items that are labeled. When its turn comes it is a novel class; the other
      hidden ones are then known classes, of which the protocol counts unlabeled items
      alone;
    - a visible class has in its own cluster its unlabeled items (as many as that share
      says), times the share of held-out items that were put there; its other items lie
      where the others of these were put;
    - what is left of the clusters belongs to classes that nobody has labeled. As many as
      it has room for are laid into it, each as large and as spread over clusters as a
      hidden class drawn at random, the largest pieces where there is most room.

    Of visible classes, whose held-out items are counted in their own cluster, it is asked
    whether they keep it. There the hidden ones don't compete: in the run that is
    rehearsed they have clusters of their own.

    Args:
      posed: the problem.
      clusters: (N,) integers, the answer; a visible class is the cluster of its number.
      share: see `clustering.labeled_share`.
      seed: of the draw.

    Returns:
      The counts.
    """
    classes = np.unique(posed.hidden[posed.hidden >= 0])
    size, visible = int(clusters.max()) + 1, posed.records.num_known
    rows = posed.hidden >= 0
    which = np.searchsorted(classes, posed.hidden[rows])
    hidden = _table(clusters[rows], which, size, len(classes))
    own, astray = _of_visible(posed, clusters, share, size)
    full = hidden / share
    room = (posed.records.labels < 0) & (posed.held_out < 0)
    room = np.bincount(clusters[room], minlength=size)
    rest = np.maximum(room - own.sum(axis=1) - astray - full.sum(axis=1), 0)
    others = _others(full, rest, np.random.default_rng([seed, 3]))
    alone = _matched(np.concatenate([own, others], axis=1))[:visible]
    home = posed.held_out[posed.held_out >= 0]
    kept = home[(clusters[posed.held_out >= 0] == home) & (alone[home] == home)]
    return Counts(
        classes,
        hidden.sum(axis=0).astype(int),
        np.rint(_right(own, full, others, share) * share).astype(int),
        np.bincount(home, minlength=visible),
        np.bincount(kept, minlength=visible),
    )


def _of_visible(
    posed: Posed, clusters: np.ndarray, share: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(K, V) unlabeled items in their class's cluster, and (K,) elsewhere; expected."""
    labels, visible = posed.records.labels, posed.records.num_known
    held = posed.held_out >= 0
    put, home = clusters[held], posed.held_out[held]
    recall = np.mean(put == home) if held.any() else 1.0
    given = np.bincount(np.concatenate([labels[labels >= 0], home]), minlength=visible)
    unlabeled = given * (1 - share) / share
    own = np.zeros((size, visible))
    np.fill_diagonal(own, unlabeled * recall)
    astray = np.bincount(put[put != home], minlength=size) / max(held.sum(), 1)
    return own, astray * unlabeled.sum()


def _right(
    own: np.ndarray, full: np.ndarray, others: np.ndarray, share: float
) -> np.ndarray:
    """(h,) items of each hidden class in the cluster that is matched with it."""
    number, start = full.shape[1], own.shape[1]
    right = np.zeros(number)
    for turn in range(min(number, _TURNS)):
        mine = np.arange(number) % _TURNS == turn
        weight = np.where(mine, 1.0, 1 - share)
        match = _matched(np.concatenate([own, full * weight, others], axis=1))
        found = match[start : start + number]
        mine &= found >= 0
        right[mine] = full[found[mine], np.flatnonzero(mine)]
    return right


def _table(
    clusters: np.ndarray, classes: np.ndarray, size: int, number: int
) -> np.ndarray:
    counts = np.zeros((size, number))
    np.add.at(counts, (clusters, classes), 1)
    return counts


def _matched(table: np.ndarray) -> np.ndarray:
    """(classes,) the cluster of each, or -1."""
    clusters, classes = linear_sum_assignment(table, maximize=True)
    found = np.full(table.shape[1], -1)
    found[classes] = clusters
    return found


def _others(
    full: np.ndarray, rest: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """(K, u) how many items the classes that nobody knows have in each cluster."""
    sizes = full.sum(axis=0)
    number = round(rest.sum() / sizes.mean())
    if not number:
        return np.zeros((len(rest), 0))
    pieces = -np.sort(-full, axis=0)[:_PIECES]
    laid = pieces[:, draw.integers(len(sizes), size=number)]
    found, rest = np.zeros((len(rest), number)), rest.copy()
    for place in np.argsort(-laid, axis=None, kind="stable"):
        piece, one = np.unravel_index(place, laid.shape)
        amount = laid[piece, one]
        if amount < 1:
            break
        cluster = np.where(found[:, one] > 0, -np.inf, rest).argmax()
        found[cluster, one] = amount
        rest[cluster] -= amount
    return found
