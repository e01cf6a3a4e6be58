"""Which candidate to take, by what the rehearsals showed and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eagc_jax.gcd.evaluation.rehearsal import intervals
from eagc_jax.gcd.evaluation.rehearsal.result import Interval, Rated

_ERRS = 0.05  # how often all comparisons together may err


class _Gaps(NamedTuple):
    """Of one candidate from another."""

    new: Interval  # on hidden classes
    all: Interval  # on all unlabeled items

    @property
    def is_better(self) -> bool:
        """On hidden classes; or no worse there, and better on all items."""
        return self.new.low > 0 or (self.new.high >= 0 and self.all.low > 0)


def choose(
    rated: Sequence[Rated], draw: np.random.Generator, known_share: float = 0.0
) -> tuple[str, str]:
    """The best of the candidates, or the simplest of those that tie with it.

    In their order, from simple to costly: one takes the place of the best so far where
    the paired difference of the two, on the hidden classes of the same rehearsals, has an
    interval above 0. Where that one holds 0, the difference on all unlabeled items
    decides in the same way: hidden classes, and held-out labels of visible ones, weighted
    as they are among the items. The more comparisons, the wider are these intervals.

    Args:
      rated: the candidates, the simplest first.
      draw: for the intervals.
      known_share: of known classes' items among the unlabeled ones.

    Returns:
      The name of the chosen one, and a sentence that says why.
    """
    level = 1 - _ERRS / (2 * max(len(rated) - 1, 1))

    def gaps(one: Rated, other: Rated) -> _Gaps:
        return _Gaps(
            *(
                intervals.difference(
                    one.trials, other.trials, draw, level, known_share=share
                )
                for share in (0.0, known_share)
            )
        )

    best = rated[0]
    for one in rated[1:]:
        if gaps(one, best).is_better:
            best = one
    others = {one.name: gaps(best, one) for one in rated if one is not best}
    return best.name, _reason(best, others)


def _reason(best: Rated, others: dict[str, _Gaps]) -> str:
    found = (
        f"{best.name}: {best.new.expected:.3f} of the hidden classes' items were right"
    )
    if not others:
        return f"{found}; nothing else was tried"
    more = [_told(name, gap.new) for name, gap in others.items() if gap.new.low > 0]
    of_all = {n: gap for n, gap in others.items() if gap.new.low <= 0 < gap.all.low}
    ties = {n: gap for n, gap in others.items() if max(gap.new.low, gap.all.low) <= 0}
    parts = [found]
    if more:
        parts.append(f"more than {_listed(more)}")
    if of_all:
        there = [_told(name, gap.new) for name, gap in of_all.items()]
        told = [_told(name, gap.all) for name, gap in of_all.items()]
        parts.append(
            f"there a tie with {_listed(there)}, of all unlabeled items more than "
            f"{_listed(told)}"
        )
    if ties:
        told = [_told(name, gap.new) for name, gap in ties.items()]
        parts.append(f"a tie with {_listed(told)}: the simplest is taken")
    return "; ".join(parts)


def _told(name: str, gap: Interval) -> str:
    return f"{name} ({gap.expected:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}])"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
