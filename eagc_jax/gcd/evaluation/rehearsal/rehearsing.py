"""Rehearsals: the whole pipeline on problems of which a part of the answer is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from eagc_jax.gcd import clustering
from eagc_jax.gcd.evaluation.rehearsal import hiding, intervals, scoring
from eagc_jax.gcd.evaluation.rehearsal.candidates import Candidate
from eagc_jax.gcd.evaluation.rehearsal.choosing import choose
from eagc_jax.gcd.evaluation.rehearsal.result import Rated, Rehearsal, Trial
from eagc_jax.gcd.sources import Records

REHEARSALS = 3

# How many answers are given, of how many, and what comes next.
OnProgress = Callable[[int, int, str], None]


class _Stage(NamedTuple):
    """One rehearsal, ready for candidates."""

    number: int
    posed: hiding.Posed
    seed: int


def rehearse(
    records: Records,
    features: np.ndarray,
    candidates: Sequence[Candidate],
    *,
    num_classes: int | None = None,
    rehearsals: int = REHEARSALS,
    seed: int = 0,
    seconds: float | None = None,
    on_progress: OnProgress | None = None,
) -> Rehearsal:
    """How far to trust an answer, and which of several to take, without true classes.

    Each rehearsal hides a third of the known classes (of other numbers of rehearsals than
    three, a quarter): their labels are taken away, and those of a tenth of the other
    classes' labeled items, too. The pipeline answers for all items, with the number of
    classes estimated from the labels that are left, unless it was given. Then the labels
    that were taken away are compared with the answer, see `scoring.score`. The next
    rehearsal hides other classes, until each was hidden once. What other novel classes,
    in another run, may have nine times in ten is the interval, see `intervals.new_draws`.
    A training will learn from more classes than were visible in a rehearsal; its interval
    leaves room for what it may gain by these, see `intervals.most_gain`. All of it rests
    on the novel classes being like the known ones: where they are harder, it is too high.

    Trainings are all told the same number of classes, the median of what the rehearsals
    estimated: those of one candidate then share a compilation.

    Args:
      records: the items, at least three known classes. Their truth plays no part.
      features: (N, D) floats, of the frozen backbone.
      candidates: what may answer, the simplest first: ties go to it. See `first`,
        `trained` and `coordinated`.
      num_classes: known plus novel classes, hidden ones among them; None to estimate it.
      rehearsals: how many, at least 1.
      seed: of all draws. The same seed gives the same result, unless time cuts it short.
      seconds: time for all of it. First every rehearsal has its first answer (whatever
        time they take), then one candidate after another is trained, as long as the time
        that one took, or the longest so far, fits into what is left. None for no limit.
      on_progress: called before each answer.

    Returns:
      The rehearsal.

    Raises:
      ValueError: too few known classes, no candidates or two of a name, or a number that
        can't be.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> from eagc_jax.gcd.evaluation.rehearsal import first
      >>> random = np.random.default_rng(0)
      >>> classes = np.arange(160) % 8
      >>> rows = np.eye(8)[classes] + 0.05 * random.normal(size=(160, 8))
      >>> rows = rows.astype(np.float32)
      >>> labels = np.where((classes < 4) & (np.arange(160) < 80), classes, -1)
      >>> records = sources.Records(
      ...     "axes", "embedding", sources.ArrayItems(rows),
      ...     ids=sources.RowNumbers(160), labels=labels.astype(np.int32),
      ...     class_names=tuple("abcd"), num_known=4,
      ... )
      >>> found = rehearse(records, rows, [first()], num_classes=8)
      >>> found.best.new.expected, found.best.old.expected
      (1.0, 1.0)
    """
    _check(records, candidates, num_classes, rehearsals)
    started = time.monotonic()
    stages = _staged(records, rehearsals, seed)
    numbers = [
        _estimated(stage, features) if num_classes is None else num_classes
        for stage in stages
    ]
    share = clustering.labeled_share(features, records.labels, seed)
    plan = _Plan(stages, share, started, seconds, on_progress, candidates)
    found: dict[str, list[Trial]] = {}
    left_out: list[str] = []
    common = int(np.median(numbers))
    for one in sorted(candidates, key=lambda one: one.settings is not None):
        told = numbers if one.settings is None else [common] * len(stages)
        done = plan.tried(one, features, told)
        if len(done) < len(stages):
            left_out.append(_missing(one, len(done), len(stages)))
        if done:
            found[one.name] = done
    chosen = [one for one in candidates if one.name in found]
    all_rated = rated([(one, found[one.name]) for one in chosen], records, share, seed)
    draw, known = np.random.default_rng([seed, 5]), _known_share(records, share)
    best, reason = choose(all_rated, draw, known)
    return Rehearsal(
        candidates=all_rated,
        chosen=best,
        reason=reason,
        left_out=tuple(left_out),
        num_classes=num_classes,
        labeled_share=share,
        seed=seed,
        seconds=time.monotonic() - started,
    )


class _Plan:
    """What is tried next, and whether there is time for it."""

    def __init__(
        self,
        stages: Sequence[_Stage],
        share: float,
        started: float,
        seconds: float | None,
        on_progress: OnProgress | None,
        candidates: Sequence[Candidate],
    ):
        self.stages, self.share = stages, share
        self.ends = np.inf if seconds is None else started + seconds
        self.tell: OnProgress = on_progress or (lambda done, total, what: None)
        self.done, self.total = 0, len(stages) * len(candidates)
        self.longest = 0.0  # of all trainings

    def tried(
        self, one: Candidate, features: np.ndarray, numbers: Sequence[int]
    ) -> list[Trial]:
        """A candidate's trials, as many as there is time for."""
        trials = []
        for stage, number in zip(self.stages, numbers, strict=True):
            if one.settings is not None and not self._fits(one, trials):
                break
            self.tell(
                self.done, self.total, f"{one.name}, rehearsal {stage.number + 1}"
            )
            trials.append(self._trial(one, stage, features, number))
            self.done += 1
        return trials

    def _fits(self, one: Candidate, trials: list[Trial]) -> bool:
        known = [trial.seconds for trial in trials[-1:]]
        needed = max(known, default=one.seconds or self.longest)
        return time.monotonic() + needed <= self.ends

    def _trial(
        self, one: Candidate, stage: _Stage, features: np.ndarray, number: int
    ) -> Trial:
        started = time.monotonic()
        # Never fewer clusters than a hidden class more than the visible ones.
        number = max(number, stage.posed.records.num_known + 1)
        clusters = np.asarray(
            one.answer(stage.posed.records, features, number, stage.seed)
        )
        if clusters.shape != stage.posed.records.labels.shape:
            raise ValueError(
                f"{one.name} should answer with {len(features)} clusters, got "
                f"{clusters.shape}"
            )
        counts = scoring.score(stage.posed, clusters, self.share, stage.seed)
        seconds = time.monotonic() - started
        if one.settings is not None:
            self.longest = max(self.longest, seconds)
        plain = [tuple(int(x) for x in column) for column in counts]
        return Trial(stage.number, number, *plain, seconds=round(seconds, 3))


def _check(
    records: Records,
    candidates: Sequence[Candidate],
    num_classes: int | None,
    rehearsals: int,
) -> None:
    names = [one.name for one in candidates]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"candidates must be at least one, each with a name of its own; got {names}"
        )
    known, unlabeled = records.num_known, int((records.labels < 0).sum())
    if num_classes is not None and not known <= num_classes <= known + unlabeled:
        raise ValueError(
            f"num_classes must be in [{known}, {known + unlabeled}], as {records.name} "
            f"has {known} known classes and {unlabeled} unlabeled items; got "
            f"{num_classes}"
        )
    counts = np.bincount(records.labels[records.labels >= 0], minlength=known)
    if not counts.all():
        raise ValueError(
            f"every known class must have labeled items; "
            f"{records.class_names[int(counts.argmin())]!r} has none"
        )
    hiding.parts(known, rehearsals, 0)


def _staged(records: Records, rehearsals: int, seed: int) -> list[_Stage]:
    parts = hiding.parts(records.num_known, rehearsals, seed)
    seeds = [
        int(s)
        for s in np.random.default_rng([seed, 4]).integers(2**31, size=len(parts))
    ]
    return [
        _Stage(number, hiding.hide(records, part, one), one)
        for number, (part, one) in enumerate(zip(parts, seeds, strict=True))
    ]


def _estimated(stage: _Stage, features: np.ndarray) -> int:
    return clustering.estimate_num_classes(
        features, stage.posed.records.labels, key=jax.random.key(stage.seed)
    ).number


def _missing(one: Candidate, done: int, total: int) -> str:
    if not done:
        return f"{one.name}: there was no time for it"
    return f"{one.name}: there was time for {done} of {total} rehearsals"


def rated(
    tried: Sequence[tuple[Candidate, Sequence[Trial]]],
    records: Records,
    share: float,
    seed: int,
) -> tuple[Rated, ...]:
    """The candidates with their intervals.

    Args:
      tried: each candidate and its trials, at least one.
      records: the items that were rehearsed on.
      share: of known classes' items, how many are labeled; see
        `clustering.labeled_share`.
      seed: of the draws.
    """
    labeled = int(records.labeled_mask.sum())
    known_items = min(labeled / share, len(records))
    # As many novel classes as items of theirs, if they are as large as known ones.
    novel = round((len(records) - known_items) / known_items * records.num_known)
    weight = _known_share(records, share)
    found = []
    for one, trials in tried:
        draw = np.random.default_rng([seed, 6])
        new = intervals.new_draws(trials, novel, draw)
        old = intervals.old_draws(trials, draw)
        more = _most_gain(one, trials, tried, records, "right", "items")
        expected = _mean(trials, "right", "items")
        old_interval = all_interval = None
        if old is not None:
            more_old = _most_gain(one, trials, tried, records, "old_right", "old_items")
            expected_old = _mean(trials, "old_right", "old_items")
            old_interval = intervals.between(old, expected_old, more_old)
            all_interval = intervals.between(
                weight * old + (1 - weight) * new,
                weight * expected_old + (1 - weight) * expected,
                weight * more_old + (1 - weight) * more,
            )
        gap = intervals.difference(trials, tried[0][1], draw) if found else None
        found.append(
            Rated(
                one.name,
                tuple(trials),
                intervals.between(new, expected, more),
                old_interval,
                all_interval,
                gap,
            )
        )
    return tuple(found)


def _most_gain(
    one: Candidate,
    trials: Sequence[Trial],
    tried: Sequence[tuple[Candidate, Sequence[Trial]]],
    records: Records,
    right: str,
    items: str,
) -> float:
    """What a training may gain by more classes than were visible; else 0."""
    without = next((found for other, found in tried if other.settings is None), None)
    if one.settings is None or without is None:
        return 0.0
    hidden = np.mean([len(trial.classes) for trial in trials]) / records.num_known
    gained = _mean(trials, right, items) - _mean(without, right, items)
    return intervals.most_gain(gained, float(hidden))


def _known_share(records: Records, share: float) -> float:
    """Of the unlabeled items, those of known classes."""
    labeled = int(records.labeled_mask.sum())
    unlabeled = max(len(records) - labeled, 1)
    return min(labeled * (1 - share) / share / unlabeled, 1.0)


def _mean(trials: Sequence[Trial], right: str, items: str) -> float:
    return sum(sum(getattr(t, right)) for t in trials) / sum(
        sum(getattr(t, items)) for t in trials
    )
