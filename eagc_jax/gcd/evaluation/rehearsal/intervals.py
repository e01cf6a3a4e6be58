"""Between which values an accuracy lies: classes and rehearsals are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.evaluation.rehearsal.result import Interval, Trial

_DRAWS = 4000
_LEVEL = 0.9
_MOST = 1000  # classes in a draw; of more the mean varies no more


def new_draws(
    trials: Sequence[Trial], novel: int, draw: np.random.Generator
) -> np.ndarray:
    r"""Accuracies that other novel classes, in another run, might have.

    Hidden and novel classes are taken for draws from the same classes. A draw of the
    accuracy has three sources of chance:

    - which classes were hidden: the classes of all trials are drawn anew, with two more,
      each drawn half as often, of which one has no item right and the other all (so that
      few classes that are all right, or all wrong, leave some doubt);
    - which classes are the novel ones: so many are drawn from these;
    - the run: what the rehearsals' accuracies vary by more than their classes explain.

    Args:
      trials: of one candidate.
      novel: how many novel classes there are.
      draw: of all this.

    Returns:
      (draws,) float64 in [0, 1].
    """
    items = np.concatenate([trial.items for trial in trials]).astype(float)
    right = np.concatenate([trial.right for trial in trials]).astype(float)
    mean = items.mean()
    items, right = np.append(items, [mean, mean]), np.append(right, [0, mean])
    chance = np.append(np.ones(len(items) - 2), [0.5, 0.5])
    number = len(items) - 2
    found = draw.choice(
        len(items), (_DRAWS, number), p=chance / chance.sum()
    )  # classes, drawn anew
    novel = min(max(novel, 1), _MOST)
    others = np.take_along_axis(found, draw.integers(number, size=(_DRAWS, novel)), 1)
    accuracy = right[others].sum(axis=1) / items[others].sum(axis=1)
    return np.clip(accuracy + _of_runs(trials, draw, one_more=True), 0, 1)


def old_draws(trials: Sequence[Trial], draw: np.random.Generator) -> np.ndarray | None:
    """Accuracies on the known classes: the same classes, other items, another run."""
    pairs = [
        (a, b)
        for trial in trials
        for a, b in zip(trial.old_items, trial.old_right, strict=True)
        if a
    ]
    if not pairs:
        return None
    items, right = np.array(pairs, float).T
    items, right = np.append(items, 1), np.append(right, 0.5)
    found = draw.integers(len(items), size=(_DRAWS, min(len(items), _MOST)))
    return right[found].sum(axis=1) / items[found].sum(axis=1)


def difference(
    trials: Sequence[Trial],
    others: Sequence[Trial],
    draw: np.random.Generator,
    level: float = 0.95,
) -> Interval:
    """Of the expected accuracy on novel classes, from others' in the same rehearsals.

    Args:
      trials: of a candidate.
      others: of another; those of the same rehearsals are compared, class by class.
      draw: of classes.
      level: of the interval.
    """
    by_number = {trial.rehearsal: trial for trial in others}
    pairs = [(t, by_number[t.rehearsal]) for t in trials if t.rehearsal in by_number]
    items = np.concatenate([a.items for a, _ in pairs]).astype(float)
    gained = np.concatenate([np.subtract(a.right, b.right) for a, b in pairs])
    found = draw.integers(len(items), size=(_DRAWS, len(items)))
    # Few classes vary less in a draw from themselves than they do.
    wider = np.sqrt(len(items) / max(len(items) - 1, 1))
    expected = gained.sum() / items.sum()
    drawn = gained[found].sum(axis=1) / items[found].sum(axis=1)
    runs = _gap_of_runs(pairs, draw)
    return interval(expected + wider * (drawn - expected) + runs, expected, level)


def interval(drawn: np.ndarray, expected: float, level: float = _LEVEL) -> Interval:
    """The middle of the draws, so many of them; it holds what is expected."""
    outside = (1 - level) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(
        float(min(low, expected)), float(expected), float(max(high, expected))
    )


def _of_runs(trials, draw, *, one_more: bool) -> np.ndarray:
    pairs = [(np.array(t.right, float), np.array(t.items, float)) for t in trials]
    return _between(pairs, draw, one_more)


def _gap_of_runs(pairs, draw) -> np.ndarray:
    gained = [
        (np.subtract(a.right, b.right).astype(float), np.array(a.items, float))
        for a, b in pairs
    ]
    return _between(gained, draw, False)


def _between(pairs, draw: np.random.Generator, one_more: bool) -> np.ndarray:
    """Draws of what is common to a rehearsal's classes: of the mean, or of one more."""
    number = len(pairs)
    if number < 2:
        return np.zeros(_DRAWS)
    whole = sum(a.sum() for a, _ in pairs) / sum(b.sum() for _, b in pairs)
    means = np.array([a.sum() / b.sum() for a, b in pairs])
    within = [
        np.sum((a - whole * b) ** 2) / b.sum() ** 2 for a, b in pairs
    ]  # that the classes explain
    between = max(float(means.var(ddof=1) - np.mean(within)), 0.0)
    scale = np.sqrt(between * (1 / number + one_more))
    return scale * draw.standard_normal(_DRAWS)
