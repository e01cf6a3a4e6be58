"""Which share of the known classes' items is labeled, judged by nearest neighbours."""

from __future__ import annotations

import numpy as np

_ROWS = 20_000  # that are looked at
_QUERIES = 2_000  # of the labeled ones among them
_NEIGHBOURS = 10
_BLOCK = 256


def labeled_share(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    r"""The share of labeled items among all items of known classes.

    Of the ten nearest neighbours of labeled items, let `a` be labeled with the same
    class, `b` with another one, and `c` not labeled. Items of the known classes that are
    not labeled lie there as the labeled ones do: they are `(1 - s) / s` times as many.
    Novel classes' items get there as other known classes' items do, in proportion to how
    many there are. With N items, L of them labeled, with C known classes:

    .. math:: c = (a + b) (1 - s) / s + (b / s) (s N / L - 1) C / (C - 1)

    which is solved for s. Labels are taken to be a draw from the items of their classes.

    Args:
      features: (N, D) floats.
      labels: (N,) integers, -1 where there is none.
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
    labels = np.asarray(labels)
    draw = np.random.default_rng([seed, 2])
    rows = _some(draw, np.arange(len(labels)), _ROWS)
    queries = _some(draw, np.flatnonzero(labels[rows] >= 0), _QUERIES)
    labels = labels[rows]
    all_items, labeled = len(labels), int((labels >= 0).sum())
    least = labeled / all_items
    classes = len(np.unique(labels[labels >= 0]))
    if classes < 2 or least == 1:
        return least
    near = labels[_nearest(_unit(features, rows), queries)]
    same = int((near == labels[queries, None]).sum())
    other = int((near >= 0).sum()) - same
    unlabeled = near.size - same - other
    rate = other * classes / (classes - 1)
    above = same + other - rate
    below = unlabeled + same + other - rate / least
    return float(np.clip(above / below, least, 1.0)) if below > 0 < above else least


def _some(draw: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return (
        rows if len(rows) <= most else np.sort(draw.choice(rows, most, replace=False))
    )


def _unit(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = np.asarray(features[rows], np.float32)
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
        found.append(np.argpartition(-near, number - 1, axis=1)[:, :number])
    return np.concatenate(found)
