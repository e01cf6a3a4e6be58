"""Between which values an accuracy lies: classes and rehearsals are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

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
    - the run: what the rehearsals' accuracies vary by more than their classes explain, if
      they vary so much more that it is hardly chance.

    Args:
      trials: of one candidate.
      novel: how many novel classes there are.
      draw: of all this.

    Returns:
      (draws,) float64 in [0, 1].
    """
    pairs = [_floats(trial.right, trial.items) for trial in trials]
    right, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
    number, mean = min(len(items), _MOST), items.mean()
    chance = np.append(np.ones(len(items)), [0.5, 0.5])
    items, right = np.append(items, [mean, mean]), np.append(right, [0, mean])
    found = draw.choice(len(items), (_DRAWS, number), p=chance / chance.sum())
    novel = min(max(novel, 1), _MOST)
    others = np.take_along_axis(found, draw.integers(number, size=(_DRAWS, novel)), 1)
    accuracy = right[others].sum(axis=1) / items[others].sum(axis=1)
    return np.clip(accuracy + _of_runs(pairs, draw, one_more=True), 0, 1)


def old_draws(trials: Sequence[Trial], draw: np.random.Generator) -> np.ndarray | None:
    """Accuracies on the known classes, of other items, in another run.

    Args:
      trials: of one candidate.
      draw: of all this.

    Returns:
      (draws,) float64 in [0, 1]; None where no label was held out.
    """
    pairs = [_floats(trial.old_right, trial.old_items) for trial in trials]
    pairs = [(right[items > 0], items[items > 0]) for right, items in pairs]
    if not sum(len(items) for _, items in pairs):
        return None
    right, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
    items, right = np.append(items, 1), np.append(right, 0.5)
    found = draw.integers(len(items), size=(_DRAWS, min(len(items), _MOST)))
    accuracy = right[found].sum(axis=1) / items[found].sum(axis=1)
    some = [pair for pair in pairs if len(pair[0])]
    return np.clip(accuracy + _of_runs(some, draw, one_more=True), 0, 1)


def most_gain(gained: float, hidden_share: float) -> float:
    r"""What a training may gain, at most, by the classes that a rehearsal hid from it.

    In a rehearsal a training learns from the visible classes, a share 1 - h of the known
    ones, and gains g over the first answer, which learns nothing. Of no class it would
    gain nothing. With all of them it gains g again if a class more is worth nothing, and
    :math:`g / (1 - h)` if each is worth the same; classes are worth less, the more there
    are, so the truth lies between.

    Args:
      gained: g, of an accuracy in the rehearsals; a loss counts as nothing.
      hidden_share: h, in [0, 1).

    Returns:
      What is to be added to g, at most.
    """
    return max(gained, 0.0) * hidden_share / (1 - hidden_share)


def between(
    drawn: np.ndarray, expected: float, more: float, level: float = _LEVEL
) -> Interval:
    """From the low end as drawn to the high end of draws that are so much more.

    Args:
      drawn: accuracies.
      expected: of these; the middle is returned.
      more: what may have to be added, at most: nothing says how much of it.
      level: of the interval.
    """
    most = np.minimum(drawn + more, 1)
    low = interval(drawn, expected, level).low
    high = interval(most, min(expected + more, 1.0), level).high
    return Interval(low, min(expected + more / 2, 1.0), high)


def difference(
    trials: Sequence[Trial],
    others: Sequence[Trial],
    draw: np.random.Generator,
    level: float = 0.95,
    *,
    known_share: float = 0.0,
) -> Interval:
    """Of the expected accuracy, from others' in the same rehearsals, class by class.

    Args:
      trials: of a candidate.
      others: of another; those of the same rehearsals are compared.
      draw: of classes.
      level: of the interval.
      known_share: how much held-out items of visible classes weigh, as they do among all
        unlabeled items; 0 compares hidden classes alone.
    """
    by_number = {trial.rehearsal: trial for trial in others}
    pairs = [(t, by_number[t.rehearsal]) for t in trials if t.rehearsal in by_number]
    new = [_floats(np.subtract(a.right, b.right), a.items) for a, b in pairs]
    old = [
        _floats(np.subtract(a.old_right, b.old_right), a.old_items) for a, b in pairs
    ]
    old = [(gained[items > 0], items[items > 0]) for gained, items in old]
    old = [pair for pair in old if len(pair[0])]
    share = known_share if old else 0.0
    expected, drawn = _gap(new, draw)
    if share:
        expected_old, drawn_old = _gap(old, draw)
        expected = (1 - share) * expected + share * expected_old
        drawn = (1 - share) * drawn + share * drawn_old
    return interval(drawn, expected, level)


def _gap(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], draw: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The mean gain of items, and draws of it; `pairs` are (gained, items) by class."""
    gained, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
    number = min(len(items), _MOST)
    found = draw.integers(len(items), size=(_DRAWS, number))
    # Few classes vary less in a draw from themselves than they do.
    wider = np.sqrt(number / max(number - 1, 1))
    expected = gained.sum() / items.sum()
    drawn = gained[found].sum(axis=1) / items[found].sum(axis=1)
    runs = _of_runs(pairs, draw, one_more=False)
    return expected, expected + wider * (drawn - expected) + runs


def interval(drawn: np.ndarray, expected: float, level: float = _LEVEL) -> Interval:
    """The middle of the draws, so many of them; it holds what is expected."""
    outside = (1 - level) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(
        float(min(low, expected)), float(expected), float(max(high, expected))
    )


def _floats(right: ArrayLike, items: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(right, float), np.asarray(items, float)


def _of_runs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    draw: np.random.Generator,
    *,
    one_more: bool,
) -> np.ndarray:
    """Draws of what is common to a rehearsal's classes: of the mean, or of one more.

    `pairs` are (right, items) by class, a pair a rehearsal.
    """
    number = len(pairs)
    if number < 2:
        return np.zeros(_DRAWS)
    whole = sum(a.sum() for a, _ in pairs) / sum(b.sum() for _, b in pairs)
    means = np.array([a.sum() / b.sum() for a, b in pairs])
    within = [np.sum((a - whole * b) ** 2) / b.sum() ** 2 for a, b in pairs]
    # Of so few means the variance is itself uncertain: what chance alone would give one
    # time in twenty is not yet taken for a difference between runs.
    chance = np.mean(within) * stats.chi2.ppf(0.95, number - 1) / (number - 1)
    variance = float(means.var(ddof=1))
    between = variance - np.mean(within) if variance > chance else 0.0
    scale = np.sqrt(between * (1 / number + one_more))
    return scale * draw.standard_normal(_DRAWS)
