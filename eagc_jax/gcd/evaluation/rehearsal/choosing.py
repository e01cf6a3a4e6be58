"""Which candidate to take, by what the rehearsals showed and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.evaluation.rehearsal import intervals
from eagc_jax.gcd.evaluation.rehearsal.result import Interval, Rated

_ERRS = 0.05  # how often all comparisons together may err


def choose(rated: Sequence[Rated], draw: np.random.Generator) -> tuple[str, str]:
    """The best of the candidates, or the simplest of those that tie with it.

    In their order, from simple to costly: one takes the place of the best so far where
    the paired difference of the two, on the classes of the same rehearsals, has an
    interval above 0. The more candidates, the wider are these intervals.

    Args:
      rated: the candidates, the simplest first.
      draw: for the intervals.

    Returns:
      The name of the chosen one, and a sentence that says why.
    """
    level = 1 - _ERRS / max(len(rated) - 1, 1)
    best = rated[0]
    for one in rated[1:]:
        if intervals.difference(one.trials, best.trials, draw, level).low > 0:
            best = one
    others = {
        one.name: intervals.difference(best.trials, one.trials, draw, level)
        for one in rated
        if one is not best
    }
    return best.name, _reason(best, others)


def _reason(best: Rated, others: dict[str, Interval]) -> str:
    found = (
        f"{best.name}: {best.new.expected:.3f} of the hidden classes' items were right"
    )
    if not others:
        return f"{found}; nothing else was tried"
    beaten = [_told(name, gap) for name, gap in others.items() if gap.low > 0]
    ties = [_told(name, gap) for name, gap in others.items() if gap.low <= 0]
    parts = [found]
    if beaten:
        parts.append(f"more than {_listed(beaten)}")
    if ties:
        parts.append(f"a tie with {_listed(ties)}: the simplest is taken")
    return "; ".join(parts)


def _told(name: str, gap: Interval) -> str:
    return f"{name} ({gap.expected:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}])"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
