"""The cheapest choice of one cluster for each unit in which no two foes share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

_STEPS = 200_000  # of the search, times units; a page's decisions take a few dozen


class Impossible(ValueError):
    """There is no such choice, or none was found; `units` are those in the way."""

    def __init__(self, units: Sequence[int]):
        super().__init__("there are too few clusters")
        self.units: list[int] = list(units)


def cheapest(
    costs: np.ndarray, fixed: Sequence[int], foes: Sequence[set[int]]
) -> list[int]:
    """Chooses clusters so that the sum of costs is least.

    Where all units are foes of each other, this is an assignment problem; else branch and
    bound: the unit with the fewest clusters left goes first, its cheapest one first, and
    what the others would cost at least without any foe is the bound.

    Args:
      costs: (U, K) floats, of putting a unit into a cluster.
      fixed: U clusters that are chosen already, -1 where it is free.
      foes: of each unit, the numbers of those that it must not share a cluster with.

    Returns:
      U clusters.

    Raises:
      Impossible: there are too few clusters.

    Examples:
      >>> costs = np.array([[0.0, 1.0, 9.0], [0.0, 3.0, 9.0], [0.0, 1.0, 9.0]])
      >>> cheapest(costs, [-1, -1, -1], [{1}, {0, 2}, {1}])
      [1, 0, 1]
    """
    allowed = _allowed(costs, fixed, foes)
    free = [unit for unit, cluster in enumerate(fixed) if cluster < 0]
    chosen = list(fixed)
    if not free:
        return chosen
    if all(len(foes[unit].intersection(free)) == len(free) - 1 for unit in free):
        for unit, cluster in zip(free, _matched(allowed[free], free), strict=True):
            chosen[unit] = cluster
        return chosen
    search = _Search(allowed, foes)
    search.go(chosen, free)
    if search.best is None:
        raise Impossible(sorted(free, key=lambda unit: -len(foes[unit])))
    return search.best


def _allowed(
    costs: np.ndarray, fixed: Sequence[int], foes: Sequence[set[int]]
) -> np.ndarray:
    """Costs, infinite where a fixed foe is."""
    allowed = np.array(costs, np.float64)
    for unit, cluster in enumerate(fixed):
        if cluster < 0:
            taken = [fixed[foe] for foe in foes[unit] if fixed[foe] >= 0]
            allowed[unit, taken] = np.inf
            if not np.isfinite(allowed[unit]).any():
                raise Impossible([unit, *sorted(foes[unit])])
    return allowed


def _matched(allowed: np.ndarray, units: Sequence[int]) -> list[int]:
    """Each its own cluster, at the least sum."""
    if allowed.shape[0] > allowed.shape[1]:
        raise Impossible(units)
    try:
        rows, clusters = linear_sum_assignment(allowed)
    except ValueError as error:  # not feasible
        raise Impossible(units) from error
    return clusters[np.argsort(rows)].tolist()


class _Search:
    def __init__(self, allowed: np.ndarray, foes: Sequence[set[int]]):
        self.best: list[int] | None = None
        self._lowest = float("inf")
        # Enough to come to one choice, or to all of them where there are few units.
        self._left = 4 * len(foes) + _STEPS // max(len(foes), 1)
        self._allowed, self._foes = allowed, foes

    def go(self, chosen: list[int], free: Sequence[int]) -> None:
        """Depth first, without recursion: there may be thousands of units."""
        stack = [self._branch(chosen, set(free), 0.0)]
        while stack and self._left:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                continue
            self._left -= 1
            chosen, left, cost = step
            if not left:
                if cost < self._lowest:
                    self.best, self._lowest = chosen, cost
                continue
            stack.append(self._branch(chosen, left, cost))

    def _branch(
        self, chosen: list[int], left: set[int], cost: float
    ) -> Iterator[tuple[list[int], set[int], float]]:
        """Choices for the unit with the fewest left to it."""
        open_ = {unit: self._open(unit, chosen) for unit in left}
        least = {unit: values.min() for unit, values in open_.items()}
        bound = cost + sum(least.values())
        if not np.isfinite(bound):  # nothing is left to one of them
            return
        unit = self._tightest(open_)
        values, others = open_[unit], bound - least[unit]
        del open_, least  # of every depth, they would be too many
        rest = left - {unit}
        for cluster in np.argsort(values, kind="stable").tolist():
            price = float(values[cluster])
            if not others + price < self._lowest:  # nor will the next ones
                return
            now = list(chosen)
            now[unit] = cluster
            yield now, rest, cost + price

    def _tightest(self, open_: dict[int, np.ndarray]) -> int:
        """The unit with the fewest clusters left to it; of several, the most foes."""

        def key(unit: int) -> tuple[int, int, int]:
            foes = len(self._foes[unit].intersection(open_))
            return int(np.isfinite(open_[unit]).sum()), -foes, unit

        return min(open_, key=key)

    def _open(self, unit: int, chosen: Sequence[int]) -> np.ndarray:
        values = self._allowed[unit].copy()
        values[[chosen[foe] for foe in self._foes[unit] if chosen[foe] >= 0]] = np.inf
        return values
