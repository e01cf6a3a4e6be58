"""The clustering nearest to one that was found in which every decision holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from eagc_jax.gcd.decisions.coloring import Impossible, cheapest
from eagc_jax.gcd.decisions.constraints import Constraints
from eagc_jax.gcd.sources.strings import shown


def obey(
    constraints: Constraints,
    features: np.ndarray,
    clusters: ArrayLike,
    centres: ArrayLike,
) -> np.ndarray:
    """Clusters of all items, changed where a decision asks for it.

    Labeled and accepted items are in their class. Items that belong together move as one.
    Where those bound to each other, by any chain of decisions, don't satisfy all of
    these, they are assigned anew: so that the sum of squared distances to the centres,
    of features of length 1, is least among the assignments that satisfy all of them.
    (Where the search would take too long, the best that it came by.) Everything else
    stays where it was.

    Args:
      constraints: from `apply`.
      features: (M, D) floats, of the records that `apply` returned.
      clusters: (M,) integers, of k-means or after training; the known classes first.
      centres: (K, D) floats.

    Returns:
      (M,) integers in [0, K).

    Raises:
      ValueError: there are too few clusters for items that don't belong together; the
        message names some of them.

    Examples:
      >>> bound = Constraints(
      ...     tuple("abc"), labels=np.array([0, -1, -1]), kept=np.ones(3, bool),
      ...     apart=(np.array([0, 1]),),
      ... )
      >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
      >>> obey(bound, rows, np.array([0, 0, 1]), np.eye(2)).tolist()
      [0, 1, 1]
    """
    centres = np.asarray(centres, np.float64)
    found = np.array(clusters, dtype=np.int64)
    labels = constraints.labels
    found[labels >= 0] = labels[labels >= 0]
    for units, pairs in _problems(constraints):
        if not _holds(found, units, pairs):
            _assign(constraints, features, found, centres, units, pairs)
    return found


def least_clusters(constraints: Constraints) -> int:
    """A number of clusters with which `obey` succeeds, the least one where that is easy.

    Known classes count, and more are needed where more items than there are classes
    don't belong together.

    Args:
      constraints: from `apply`.

    Returns:
      At least the number of known classes.

    Examples:
      >>> bound = Constraints(
      ...     tuple("abc"), labels=np.array([0, -1, -1]), kept=np.ones(3, bool),
      ...     apart=(np.array([0, 1, 2]),),
      ... )
      >>> least_clusters(bound)
      3
    """
    number = int(constraints.labels.max(initial=-1)) + 1
    for units, pairs in _problems(constraints):
        fixed = [_class_of(constraints, unit) for unit in units]
        number = max(number, max((len(one) for one in pairs), default=0))
        while not _is_possible(fixed, pairs, number):
            number += 1
    return number


def _is_possible(fixed: Sequence[int], pairs: Sequence[set[int]], number: int) -> bool:
    try:
        cheapest(np.zeros((len(fixed), number)), fixed, pairs)
    except Impossible:
        return False
    return True


def _problems(
    constraints: Constraints,
) -> list[tuple[list[np.ndarray], list[set[int]]]]:
    """Units of items that move as one, and which of them may not be in one cluster.

    One problem for those that a chain of decisions binds to each other; of each unit,
    the numbers of those that it must not meet.
    """
    unit_of: dict[int, int] = {}
    units: list[np.ndarray] = []
    for rows in constraints.together:
        unit_of.update(dict.fromkeys(rows.tolist(), len(units)))
        units.append(rows)
    for rows in constraints.apart:
        for row in rows.tolist():
            if row not in unit_of:
                unit_of[row] = len(units)
                units.append(np.array([row]))
    foes: list[set[int]] = [set() for _ in units]
    for rows in constraints.apart:
        here = {unit_of[row] for row in rows.tolist()}
        for unit in here:
            foes[unit] |= here - {unit}
    problems = []
    for numbers in _connected(foes):
        place = {unit: i for i, unit in enumerate(numbers)}
        problems.append(
            (
                [units[unit] for unit in numbers],
                [{place[foe] for foe in foes[unit]} for unit in numbers],
            )
        )
    return problems


def _connected(foes: Sequence[set[int]]) -> list[list[int]]:
    left, parts = set(range(len(foes))), []
    while left:
        part, ahead = [], [min(left)]
        left.discard(ahead[0])
        while ahead:
            unit = ahead.pop()
            part.append(unit)
            near = foes[unit] & left
            left -= near
            ahead.extend(near)
        parts.append(sorted(part))
    return parts


def _holds(
    found: np.ndarray, units: Sequence[np.ndarray], foes: Sequence[set[int]]
) -> bool:
    if any((found[rows] != found[rows[0]]).any() for rows in units):
        return False
    first = [found[rows[0]] for rows in units]
    return all(
        first[unit] != first[foe] for unit, some in enumerate(foes) for foe in some
    )


def _class_of(constraints: Constraints, rows: np.ndarray) -> int:
    """Of the labeled ones, which agree; -1 where there are none."""
    return int(constraints.labels[rows].max())


def _assign(
    constraints: Constraints,
    features: np.ndarray,
    found: np.ndarray,
    centres: np.ndarray,
    units: Sequence[np.ndarray],
    foes: Sequence[set[int]],
) -> None:
    costs = np.stack([_costs(features[rows], centres) for rows in units])
    fixed = [_class_of(constraints, rows) for rows in units]
    try:
        chosen = cheapest(costs, fixed, foes)
    except Impossible as error:
        names = [shown(constraints.ids[int(units[unit][0])]) for unit in error.units]
        raise ValueError(
            f"{len(centres)} clusters are too few for all the items that were decided "
            f"not to belong together, such as {', '.join(names[:4])}: ask for more "
            "classes with num_classes, or take back a decision"
        ) from error
    for rows, cluster in zip(units, chosen, strict=True):
        found[rows] = cluster


def _costs(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(K,) sums of the rows' squared distances to the centres."""
    rows = np.asarray(rows, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return ((rows[:, None] - centres) ** 2).sum(axis=(0, 2))
