"""Static weights that are tuned: a grid of powers of ten over each ratio, by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Weights = tuple[float, ...]
# Evaluates settings on the tuning seeds: the mean logarithm of the error of each.
Evaluate = Callable[[Sequence[Weights]], Mapping[Weights, float]]

# Ratios to the first weight that are tried; the ends move on while the best is one.
DECADES = (-2, -1, 0, 1, 2)
EXTENSIONS = 2


class Tuned(NamedTuple):
    """What the search found."""

    weights: Weights  # (K,), the first is 1
    tried: int  # settings


def search(
    number: int, evaluate: Evaluate, full: bool = False, refine: int = 0
) -> Tuned:
    """The best static weights of K objectives.

    The ratio of each objective to the first is tried at five powers of ten, the others
    as they are by then (all ones at first); where the best is at an end of the grid, the
    next power is tried, up to two more. ``full`` tries all combinations of the five
    first. ``refine`` looks that often between: half a power of ten to either side of the
    best in each ratio, then a quarter, an eighth.

    Args:
      number: K.
      evaluate: lower is better; a setting that isn't finite counts as the worst.
      full: whether to try the whole grid before.
      refine: how often to halve the grid's step at the end.
    """
    scores: dict[Weights, float] = {}

    def score(settings: Sequence[Weights]) -> None:
        new = [one for one in dict.fromkeys(settings) if one not in scores]
        if new:
            found = evaluate(new)
            scores.update(
                {s: v if np.isfinite(v) else np.inf for s, v in found.items()}
            )

    best: Weights = (1.0,) * number
    if full:
        combinations = list(_combinations(number))
        score(combinations)
        best = _least(combinations, scores)
    for objective in range(1, number):
        best = _along(objective, best, score, scores)
    for halving in range(1, refine + 1):
        factor = 10.0 ** (0.5**halving)
        for objective in range(1, number):
            beside = [_times(best, objective, by) for by in (1 / factor, factor)]
            score(beside)
            best = _least([best, *beside], scores)
    return Tuned(best, len(scores))


def _along(objective: int, best: Weights, score, scores) -> Weights:
    """The best in one ratio, the others held."""

    def at(decade: int) -> Weights:
        return (*best[:objective], float(10.0**decade), *best[objective + 1 :])

    decades: list[int] = list(DECADES)
    score([at(decade) for decade in decades])
    for _ in range(EXTENSIONS):
        leader = min(decades, key=lambda decade: scores[at(decade)])
        if leader not in (decades[0], decades[-1]):
            break
        decades.append(leader + 1 if leader == decades[-1] else leader - 1)
        decades.sort()
        score([at(leader + 1), at(leader - 1)])
    return _least([at(decade) for decade in decades], scores)


def _times(weights: Weights, objective: int, factor: float) -> Weights:
    """One weight multiplied, to three digits: a setting is read back from a table."""
    new = float(f"{weights[objective] * factor:.3g}")
    return (*weights[:objective], new, *weights[objective + 1 :])


def _least(settings: Sequence[Weights], scores: Mapping[Weights, float]) -> Weights:
    return min(settings, key=lambda one: scores[one])


def _combinations(number: int) -> Iterator[Weights]:
    ratios = 10.0 ** np.asarray(DECADES, float)
    for index in np.ndindex((len(ratios),) * (number - 1)):
        yield (1.0, *(float(ratios[i]) for i in index))
