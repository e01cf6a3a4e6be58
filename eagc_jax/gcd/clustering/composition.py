"""How many items and classes have no label, from what lies next to labeled items."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from eagc_jax.gcd.clustering._chunks import Rows

_ROWS = 20_000  # that are looked at, or
_ROWS_PER_CLASS = 40  # so many for each known class
_QUERIES = 2_500  # of the labeled ones among them
_NEIGHBOURS = 5
_BLOCK = 256
_DRAWS = 2_000
_ENTRIES = 4_000_000  # of classes drawn, in all draws
# Standard deviation of what no draw of classes shows, in the logarithm of the number:
# that novel classes lie among known ones as these do among themselves, and that labels
# are a draw. Chosen on Omniglot's characters, 24 draws of the known half.
_MODEL = 0.09


class Composition(NamedTuple):
    """Of a labeled item's neighbours, means by class; 0 where a class has one such."""

    same: np.ndarray  # (C,) labeled with the same class, as if the item itself were one
    other: np.ndarray  # (C,) labeled with another class
    unlabeled: np.ndarray  # (C,)
    labeled: np.ndarray  # (C,) items labeled with the class, of those looked at
    items: int  # that were looked at


def composition(
    features: Rows, labels: np.ndarray, seed: int = 0
) -> Composition | None:
    """Counts the five nearest neighbours of labeled items.

    Args:
      features: (N, D) floats.
      labels: (N,) integers, known classes 0, 1, ..., and -1 where there is none.
      seed: of the sample that is looked at, of more than 20,000 items.

    Returns:
      The counts; None with fewer than two known classes, or nothing unlabeled.
    """
    draw = np.random.default_rng([seed, 2])
    classes = int(labels.max(initial=-1)) + 1
    if classes < 2 or labels.min() >= 0:
        return None
    most = max(_ROWS, _ROWS_PER_CLASS * classes)
    rows = _some(draw, np.arange(len(labels)), most)
    labels = labels[rows]
    queries = _some(draw, np.flatnonzero(labels >= 0), _QUERIES)
    own = labels[queries]
    near = labels[_nearest(_unit(features, rows), queries)]

    labeled = np.bincount(labels[labels >= 0], minlength=classes)
    asked = np.bincount(own, minlength=classes)

    def mean(which: np.ndarray) -> np.ndarray:
        found = np.bincount(own, which.sum(axis=1), minlength=classes)
        return np.where(labeled > 1, found / np.maximum(asked, 1), 0)

    same = near == own[:, None]
    return Composition(
        mean(same) * labeled / np.maximum(labeled - 1, 1),
        mean((near >= 0) & ~same),
        mean(near < 0),
        labeled,
        len(labels),
    )


def labeled_share(features: Rows, labels: np.ndarray, seed: int = 0) -> float:
    r"""The share of labeled items among all items of known classes.

    Of the nearest neighbours of labeled items, the same number of each class, let `a` be
    labeled with the same class, `b` with another one, and `c` not labeled. Items of the
    known classes that are not labeled lie there as the labeled ones do: they are
    `(1 - s) / s` times as many. Novel classes' items get there as other known classes'
    items do, in proportion to how many there are. With N items, L of them labeled, and C
    known classes:

    .. math:: c = (a + b) (1 - s) / s + (b / s) (s N / L - 1) C / (C - 1)

    which is solved for s. Labels are taken to be a draw from the items of their classes.

    Args:
      features: (N, D) floats.
      labels: (N,) integers, known classes 0, 1, ..., and -1 where there is none.
      seed: of the sample that is looked at, of more than 20,000 items.

    Returns:
      s, between L / N (all items are of known classes) and 1.

    Examples:
      >>> classes = np.arange(2000) % 4
      >>> labels = np.where((classes < 2) & (np.arange(2000) // 4 % 2), classes, -1)
      >>> noise = 0.1 * np.random.default_rng(0).normal(size=(2000, 4))
      >>> round(labeled_share(np.eye(4)[classes] + noise, labels), 1)
      0.5
    """
    found = composition(features, labels, seed)
    if found is None:
        return float(np.mean(labels >= 0))
    return float(_share(found, found.labeled.sum() / found.items))


def numbers(found: Composition, draw: np.random.Generator) -> np.ndarray:
    r"""Draws of the number of classes, if novel ones are about as large as known ones.

    With the share s of `labeled_share`, known classes have L / s items and novel ones
    N - L / s. There are as many novel classes as have room there, each as large as a
    known one. Known classes are drawn anew, with their neighbours and sizes; so are the
    sizes of novel ones; and what no draw shows is normal noise of 9 % of the number.

    Args:
      found: of the neighbours.
      draw: of the classes.

    Returns:
      (draws,) floats, at least the number of known classes.
    """
    known = len(found.labeled)
    number = max(min(_DRAWS, _ENTRIES // known), 100)
    chosen = draw.integers(known, size=(number, known))
    drawn = Composition(*(values[chosen] for values in found[:4]), items=found.items)
    labeled = found.labeled.sum()
    share = _share(drawn, labeled / found.items)
    novel_items = np.maximum(found.items - labeled / share, 0)
    size = drawn.labeled.mean(axis=-1) / share
    novel = novel_items / size
    spread = found.labeled.std() / found.labeled.mean()
    spread = spread / np.sqrt(np.maximum(novel, 1))
    novel = novel * np.maximum(1 + spread * draw.standard_normal(number), 0)
    noise = np.exp(_MODEL * draw.standard_normal(number))
    return np.maximum((known + novel) * noise, known)


def likelihood(found: Composition, tried: np.ndarray) -> np.ndarray:
    """Of each number of classes: how likely a neighbour is unlabeled as often as it is.

    Args:
      found: of the neighbours.
      tried: (T,) numbers of classes, at least the known ones.

    Returns:
      (T,) mean log-likelihood of a neighbour; -inf where so many classes have no room.
    """
    a, b, c = (float(x.sum()) for x in found[:3])
    known, labeled = len(found.labeled), found.labeled.sum()
    share = np.minimum(tried * labeled / (known * found.items), 1.0)
    beyond = np.maximum(share * found.items / labeled - 1, 0)
    expected = (a + b) * (1 - share) + b * beyond * known / (known - 1)
    expected = expected / share
    chance = np.clip(expected / (expected + a + b), 1e-12, 1 - 1e-12)
    mean = (c * np.log(chance) + (a + b) * np.log1p(-chance)) / (a + b + c)
    room = tried * labeled <= known * found.items
    return np.where(room, mean, -np.inf)


def _share(found: Composition, least: np.ndarray | float) -> np.ndarray:
    """Of all classes together; `least` is L / N."""
    a, b, c = (x.sum(axis=-1) for x in found[:3])
    known = found.labeled.shape[-1]
    rate = b * known / (known - 1)
    above, below = a + b - rate, c + a + b - rate / least
    possible = (above > 0) & (below > 0)
    share = np.where(possible, above / np.where(possible, below, 1), least)
    return np.clip(share, least, 1.0)


def _some(draw: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return (
        rows if len(rows) <= most else np.sort(draw.choice(rows, most, replace=False))
    )


def _unit(features: Rows, rows: np.ndarray) -> np.ndarray:
    found = np.asarray(features[rows], np.float32)
    largest = np.abs(found).max(axis=1, keepdims=True)
    found = found / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(lengths, 1e-12)


def _nearest(unit: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(Q, k) the nearest other rows."""
    number = min(_NEIGHBOURS, len(unit) - 1)
    found = []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        near = unit[block] @ unit.T
        near[np.arange(len(block)), block] = -np.inf
        found.append(_largest(near, number))
    return np.concatenate(found)


def _largest(near: np.ndarray, number: int) -> np.ndarray:
    """(Q, number) places of the largest entries; quicker than a partition for a few."""
    places = []
    for _ in range(number):
        places.append(near.argmax(axis=1))
        near[np.arange(len(near)), places[-1]] = -np.inf
    return np.stack(places, axis=1)
