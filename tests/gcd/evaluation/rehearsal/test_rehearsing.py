"""Rehearsals: plain cases, nothing leaks, the same seed, the time that there is."""

import dataclasses
import types

import numpy as np
import pytest

from eagc_jax.gcd.evaluation.rehearsal import rehearse, rehearsing
from eagc_jax.gcd.evaluation.scores import score
from tests.gcd.evaluation.rehearsal.problems import (
    CLASSES,
    KNOWN,
    QUICK,
    blind,
    blobs,
    noise,
    pretend,
)


def without_seconds(found):
    plain = found.to_plain()
    del plain["seconds"]
    for one in plain["candidates"]:
        for trial in one["trials"]:
            del trial["seconds"]
    return plain


@pytest.fixture(scope="module")
def plain():
    records, rows = blobs()
    return rehearse(records, rows, [QUICK], num_classes=CLASSES)


def test_classes_that_are_apart_are_found(plain):
    best = plain.best
    assert best.new.expected > 0.95
    assert best.new.high == 1.0
    assert best.new.width < 0.4
    assert best.old.expected > 0.9
    assert best.all.expected > 0.95
    assert plain.labeled_share == pytest.approx(0.5, abs=0.1)
    assert plain.chosen == "first answer"
    assert plain.left_out == ()
    records, rows = blobs()
    true = score(records, QUICK.answer(records, rows, CLASSES, 0))
    assert true.new in best.new


def test_each_class_is_hidden_once(plain):
    hidden = [one for trial in plain.best.trials for one in trial.classes]
    assert sorted(hidden) == list(range(KNOWN))


def test_of_noise_no_more_than_chance_is_expected():
    records, rows = noise()
    best = rehearse(records, rows, [QUICK], num_classes=CLASSES).best
    true = score(records, QUICK.answer(records, rows, CLASSES, 0))
    assert true.new < 0.3
    assert true.new in best.new
    assert best.new.expected < 0.4


def test_the_same_seed_gives_the_same(plain):
    records, rows = blobs()
    again = rehearse(records, rows, [QUICK], num_classes=CLASSES)
    assert without_seconds(again) == without_seconds(plain)


def test_truth_plays_no_part(plain):
    records, rows = blobs()
    for truth in (None, np.random.default_rng(0).permutation(records.truth)):
        other = dataclasses.replace(records, truth=truth)
        found = rehearse(other, rows, [QUICK], num_classes=CLASSES)
        assert without_seconds(found) == without_seconds(plain)


def test_hidden_labels_enter_the_score_only():
    records, rows = blobs(noise=0.3)
    seen = []

    def spy(records, features, num_classes, seed):
        assert records.truth is None
        seen.append((records.labels, records.class_names, num_classes))
        return blind(records, features, num_classes, seed)

    first = rehearse(records, rows, [pretend("spy", spy)], rehearsals=1)
    hidden = np.array(first.candidates[0].trials[0].classes)
    which = np.isin(records.labels, hidden)
    draw = np.random.default_rng(3)
    labels = records.labels.copy()
    labels[which] = draw.permutation(labels[which])
    mixed = dataclasses.replace(records, labels=labels)
    second = rehearse(mixed, rows, [pretend("spy", spy)], rehearsals=1)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert (seen[0][0][which] == -1).all()
    assert seen[0][1:] == seen[1][1:]
    assert second.candidates[0].trials[0].classes == tuple(hidden)


def test_the_number_of_classes_is_estimated_in_each_rehearsal():
    records, rows = blobs()
    told = rehearse(records, rows, [QUICK, pretend("blind", blind)], rehearsals=2)
    assert told.num_classes is None
    first, trained = ([t.num_classes for t in one.trials] for one in told.candidates)
    assert trained == [int(np.median(first))] * 2
    assert all(abs(number - CLASSES) <= 4 for number in first)


class Clock:
    """Time passes when somebody works."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(rehearsing, "time", clock)

    def slow(self, name, seconds, expected=None):
        def answer(*arguments):
            self.now += seconds
            return blind(*arguments)

        return pretend(name, answer, expected)


def test_time_is_kept_and_what_is_left_out_is_said(monkeypatch):
    clock = Clock(monkeypatch)
    records, rows = blobs()
    found = rehearse(
        records,
        rows,
        [QUICK, clock.slow("slow", 10), clock.slow("other", 10)],
        num_classes=CLASSES,
        seconds=25,
    )
    assert found.left_out == (
        "slow: there was time for 2 of 3 rehearsals",
        "other: there was no time for it",
    )
    assert [one.name for one in found.candidates] == ["first answer", "slow"]
    assert len(found.candidates[1].trials) == 2
    assert found.chosen == "first answer"
    assert found.seconds <= 25


def test_a_candidate_that_is_known_to_take_long_is_not_begun(monkeypatch):
    clock = Clock(monkeypatch)
    records, rows = blobs()
    candidates = [QUICK, clock.slow("slow", 50, expected=50)]
    found = rehearse(records, rows, candidates, num_classes=CLASSES, seconds=40)
    assert found.left_out == ("slow: there was no time for it",)


def test_progress_names_each_answer():
    records, rows = blobs()
    told = []
    rehearse(
        records,
        rows,
        [pretend("blind", blind)],
        num_classes=CLASSES,
        rehearsals=2,
        on_progress=lambda *one: told.append(one),
    )
    assert told == [(0, 2, "blind, rehearsal 1"), (1, 2, "blind, rehearsal 2")]


def test_wrong_use_says_what_to_do():
    records, rows = blobs()
    few = dataclasses.replace(
        records,
        labels=np.where(records.labels < 2, records.labels, -1),
        num_known=2,
    )
    with pytest.raises(ValueError, match=r"at least 3 known classes, found 2; label"):
        rehearse(few, rows, [QUICK])
    with pytest.raises(ValueError, match="a name of its own"):
        rehearse(records, rows, [QUICK, QUICK])
    with pytest.raises(ValueError, match="num_classes must be in"):
        rehearse(records, rows, [QUICK], num_classes=KNOWN - 1)
    with pytest.raises(ValueError, match="rehearsals must be at least 1"):
        rehearse(records, rows, [QUICK], rehearsals=0)
    gone = dataclasses.replace(
        records, labels=np.where(records.labels == 3, -1, records.labels)
    )
    with pytest.raises(ValueError, match="'class 3' has none"):
        rehearse(gone, rows, [QUICK])
    short = pretend("short", lambda records, *_: records.labels[:3])
    with pytest.raises(ValueError, match="short should answer with 320 clusters"):
        rehearse(records, rows, [short], num_classes=CLASSES)
