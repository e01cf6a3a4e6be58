"""Two assignments of the same items: how far they agree, and where they do not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from eagc_jax.gcd.runs.assignment import Assignment

_PIECE = 0.1  # of a category, at least, is called a part of it


class Division(NamedTuple):
    """A category of one assignment that is several of the other."""

    whole: str
    items: int  # of the whole
    parts: tuple[tuple[str, int], ...]  # each with how many of the whole's items it has


class Agreement(NamedTuple):
    """Of two assignments, on N items that both have."""

    items: int
    ari: float  # adjusted Rand index, at most 1, 0 by chance; NaN of no item
    ami: float  # adjusted mutual information, likewise
    changed: np.ndarray  # (M,) int, which of the N items are in another category
    split: tuple[Division, ...]  # categories of the first; parts of the second
    merged: tuple[Division, ...]  # categories of the second; parts of the first


def agree(first: Assignment, second: Assignment) -> Agreement:
    """Compares two assignments row by row.

    Known classes that both have are the same by their name. Of all other categories,
    whose numbers mean nothing, those are the same that share most items, one to one
    (Hungarian matching). An item is changed if its two categories are not the same.

    A category is split if two or more of the other assignment's have more than half of
    their items from it, and each at least a tenth of it; merged is the same the other
    way round.

    Args:
      first: of N items.
      second: of the same N, in the same order.

    Returns:
      The agreement. Divisions come in the order of their size.

    Raises:
      ValueError: they are of different numbers of items.

    Examples:
      >>> def of(*clusters):
      ...     ones, names = np.ones(len(clusters)), ("cat", "new", "more")
      ...     rows = np.array(clusters)
      ...     return Assignment("abcdef", -ones, rows, names, 1, ones, ones, ones)
      >>> found = agree(of(0, 0, 1, 1, 1, 1), of(0, 0, 1, 1, 1, 2))
      >>> found.changed.tolist(), found.split
      ([5], (Division(whole='new', items=4, parts=(('new', 3), ('more', 1))),))
    """
    if len(first) != len(second):
        raise ValueError(
            f"first and second must be of the same items, got {len(first)} and "
            f"{len(second)}"
        )
    a, b = np.asarray(first.clusters), np.asarray(second.clusters)
    counts = np.zeros((len(first.names), len(second.names)), np.int64)
    np.add.at(counts, (a, b), 1)
    same = _same(first, second, counts)
    return Agreement(
        len(a),
        float(adjusted_rand_score(a, b)) if len(a) else np.nan,
        float(adjusted_mutual_info_score(a, b)) if len(a) else np.nan,
        np.flatnonzero(same[a] != b),
        _divisions(counts, first.names, second.names),
        _divisions(counts.T, second.names, first.names),
    )


def _same(first: Assignment, second: Assignment, counts: np.ndarray) -> np.ndarray:
    """(K,) for each category of the first the one of the second that is it, or -1."""
    numbers = {name: i for i, name in enumerate(second.names[: second.num_known])}
    found = np.full(len(first.names), -1)
    for number, name in enumerate(first.names[: first.num_known]):
        found[number] = numbers.get(name, -1)
    rows = np.flatnonzero(found < 0)
    columns = np.setdiff1d(np.arange(len(second.names)), found)
    matched = linear_sum_assignment(counts[np.ix_(rows, columns)], maximize=True)
    for row, column in zip(rows[matched[0]], columns[matched[1]], strict=True):
        if counts[row, column]:
            found[row] = column
    return found


def _divisions(
    counts: np.ndarray, wholes: tuple[str, ...], parts: tuple[str, ...]
) -> tuple[Division, ...]:
    """Rows that are several columns."""
    sizes, found = counts.sum(axis=1), []
    mostly = counts > counts.sum(axis=0) / 2
    large = counts >= np.maximum(_PIECE * sizes[:, None], 1)
    for row in np.argsort(-sizes, kind="stable"):
        columns = np.flatnonzero(mostly[row] & large[row])
        if len(columns) > 1:
            order = columns[np.argsort(-counts[row, columns], kind="stable")]
            pieces = tuple((parts[one], int(counts[row, one])) for one in order)
            found.append(Division(wholes[row], int(sizes[row]), pieces))
    return tuple(found)
