"""The parts of a rehearsal: hiding, the labeled share, scoring, intervals, choosing."""

import dataclasses
import json

import numpy as np
import pytest

from eagc_jax.gcd.evaluation.rehearsal import (
    Interval,
    Rated,
    Rehearsal,
    Trial,
    choosing,
    hiding,
    intervals,
    read_rehearsal,
    scoring,
)
from tests.gcd.evaluation.rehearsal.problems import blobs, records_of


def trial(number=0, right=(5, 10), items=(10, 10), **changes):
    classes = tuple(range(len(items)))
    one = Trial(number, 5, classes, items, tuple(right), (4, 4), (4, 3), 1.0)
    return dataclasses.replace(one, **changes)


def rated(name, *rights, items=(10,) * 8):
    trials = tuple(trial(i, right, items) for i, right in enumerate(rights))
    return Rated(name, trials, Interval(0.0, 0.5, 1.0), None, None)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_quarters_hide_each_class_once_before_any_twice():
    found = hiding.parts(10, 8, seed=1)
    for half in (found[:4], found[4:]):
        assert sorted(np.concatenate(half).tolist()) == list(range(10))
    assert [p.tolist() for p in hiding.parts(10, 8, seed=1)] == [
        p.tolist() for p in found
    ]
    assert len(hiding.parts(3, 9, seed=0)) == 3
    thirds = hiding.parts(10, 3, seed=0)
    assert sorted(np.concatenate(thirds).tolist()) == list(range(10))


def test_hidden_classes_lose_their_labels_and_others_a_tenth():
    records, _ = blobs()
    posed = hiding.hide(records, np.array([1, 5]), seed=0)
    assert posed.records.num_known == 6
    assert posed.records.class_names == tuple(f"class {i}" for i in (0, 2, 3, 4, 6, 7))
    np.testing.assert_array_equal(
        posed.hidden, np.where(np.isin(records.labels, [1, 5]), records.labels, -1)
    )
    visible = np.array([0, 2, 3, 4, 6, 7])
    for one, was in enumerate(visible):
        kept, held = posed.records.labels == one, posed.held_out == one
        np.testing.assert_array_equal(kept | held, records.labels == was)
        assert held.sum() == max(1, round(0.1 * (kept | held).sum()))
    assert posed.records.truth is None


def posed_by_hand():
    """A visible class that is labeled, and two hidden ones; four items each."""
    labels = np.array([0] * 4 + [1] * 4 + [2] * 4)
    records = records_of(np.zeros((12, 2)), np.where(labels == 0, 0, -1))
    hidden = np.where(labels > 0, labels, -1)
    return hiding.Posed(records, hidden, np.full(12, -1))


def test_hidden_classes_compete_for_clusters_as_known_ones():
    posed = posed_by_hand()
    clusters = np.array([0] * 4 + [1] * 4 + [1] * 3 + [2])
    found = scoring.score(posed, clusters, share=0.25)
    assert found.items.tolist() == [4, 4]
    assert found.right.tolist() == [4, 1]  # cluster 1 is the other one's
    # Of known classes the protocol counts unlabeled items alone: here there are none.
    assert scoring.score(posed, clusters, share=1.0).right.tolist() == [4, 3]


def test_classes_that_nobody_knows_compete_too():
    classes = np.repeat(np.arange(5), 4)
    clusters = np.where(classes == 4, [4, 4, 4, 5] * 5, classes)
    labels = np.where(classes == 0, 0, -1)
    hidden = np.where(classes > 0, classes, -1)
    alone = hiding.Posed(records_of(np.zeros((20, 2)), labels), hidden, 0 * hidden - 1)
    assert scoring.score(alone, clusters, share=1.0).right.tolist() == [4, 4, 4, 3]
    # Another twelve items in cluster 4, where the last class has three.
    more = np.full(12, -1)
    labels, hidden = np.append(labels, more), np.append(hidden, more)
    among = hiding.Posed(records_of(np.zeros((32, 2)), labels), hidden, 0 * hidden - 1)
    found = scoring.score(among, np.append(clusters, np.full(12, 4)), share=1.0)
    assert found.right.tolist() == [4, 4, 4, 1]


def test_held_out_items_count_where_their_cluster_is_their_class_s():
    labels = np.array([0, 0, 0, -1, -1, -1, -1, -1])
    posed = hiding.Posed(
        records_of(np.zeros((8, 2)), labels),
        hidden=np.array([-1, -1, -1, -1, -1, 1, 1, 1]),
        held_out=np.array([-1, -1, -1, 0, 0, -1, -1, -1]),
    )
    found = scoring.score(posed, np.array([0, 0, 0, 0, 1, 1, 1, 1]), share=0.5)
    assert (found.old_items.tolist(), found.old_right.tolist()) == ([2], [1])


def test_intervals_widen_with_what_is_not_known(draw):
    def width(trials, novel=40):
        drawn = intervals.new_draws(trials, novel, draw)
        return np.subtract(*np.quantile(drawn, [0.95, 0.05]))

    items = (10,) * 20
    mixed = [trial(i, (10, 0) * 10, items) for i in range(4)]
    same = [trial(i, (5,) * 20, items) for i in range(4)]
    assert width(same) < width(mixed)
    assert width(mixed, novel=400) < width(mixed) < width(mixed, novel=5)
    assert width(mixed[:1]) > width(mixed)
    apart = [trial(i, (10 * (i % 2),) * 20, items) for i in range(4)]
    assert width(apart) > 2 * width(mixed)


def test_a_few_perfect_classes_leave_some_doubt(draw):
    drawn = intervals.new_draws([trial(right=(10,) * 4, items=(10,) * 4)], 4, draw)
    found = intervals.interval(drawn, 1.0)
    assert found.expected == found.high == 1.0
    assert found.low < 0.8


def test_the_interval_holds_a_mean_of_like_classes_nine_times_in_ten():
    random, held = np.random.default_rng(0), 0
    for number in range(100):
        accuracy = random.beta(1.2, 0.8, size=80)
        right = random.binomial(30, accuracy)
        trials = [trial(i, tuple(right[i:40:4]), (30,) * 10) for i in range(4)]
        drawn = intervals.new_draws(trials, 40, np.random.default_rng(number))
        found = intervals.interval(drawn, right[:40].sum() / 1200)
        held += right[40:].sum() / 1200 in found
    assert 84 <= held <= 98


def test_the_better_one_is_chosen(draw):
    one = rated("plain", (5,) * 8, (4,) * 8)
    two = rated("better", (8,) * 8, (7, 8) * 4)
    name, reason = choosing.choose([one, two], draw)
    assert name == "better"
    assert "more than plain (+0." in reason


def test_of_a_tie_the_simplest_is_chosen(draw):
    one = rated("plain", (5, 4) * 4, (6, 5) * 4)
    two = rated("better by chance", (9, 1) * 4, (5, 6) * 4)
    name, reason = choosing.choose([one, two], draw)
    assert name == "plain"
    assert "a tie with better by chance" in reason
    assert choosing.choose([one], draw)[1].endswith("nothing else was tried")


def test_of_a_tie_on_hidden_classes_all_items_decide(draw):
    one = rated("plain", (5, 4) * 4, (6, 5) * 4)
    two = rated("known better", (6, 4) * 4, (5, 6) * 4)
    worse = dict(old_items=(9,) * 20, old_right=(3,) * 20)
    better = dict(old_items=(9,) * 20, old_right=(8,) * 20)
    one = dataclasses.replace(
        one, trials=tuple(dataclasses.replace(t, **worse) for t in one.trials)
    )
    two = dataclasses.replace(
        two, trials=tuple(dataclasses.replace(t, **better) for t in two.trials)
    )
    name, reason = choosing.choose([one, two], draw, 0.5)
    assert name == "known better"
    assert "there a tie with plain (+0." in reason
    assert "of all unlabeled items more than plain (+0." in reason
    assert choosing.choose([one, two], draw, 0.0)[0] == "plain"
    # Not where hidden classes are worse.
    two = dataclasses.replace(
        two, trials=tuple(dataclasses.replace(t, right=(1,) * 8) for t in two.trials)
    )
    assert choosing.choose([one, two], draw, 0.5)[0] == "plain"


def test_differences_are_of_the_rehearsals_that_both_have(draw):
    one = rated("plain", (5,) * 8, (0,) * 8)
    two = rated("better", (6,) * 8)
    found = intervals.difference(two.trials, one.trials, draw)
    assert found.expected == pytest.approx(0.1)


def whole():
    one = dataclasses.replace(rated("plain", (5,) * 8), old=Interval(0.1, 0.2, 0.3))
    return Rehearsal((one,), "plain", "because", ("other: no time",), None, 0.5, 3, 1.5)


def test_it_is_written_and_read(tmp_path):
    path = tmp_path / "rehearsal.json"
    path.write_text(json.dumps(whole().to_plain(), allow_nan=False))
    assert read_rehearsal(path) == whole()


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("chosen",), "other", "chosen must be"),
        (("candidates",), [], "chosen must be"),
        (("labeled_share",), 0.0, "labeled_share must be"),
        (("extra",), 1, "extra fields"),
        (("candidates", 0, "new", "low"), 2.0, "in this order"),
        (("candidates", 0, "new", "low"), float("nan"), "finite"),
        (("candidates", 0, "trials", 0, "right"), [11] * 8, "right must have"),
        (("candidates", 0, "trials", 0, "items"), [1], "right must have"),
        (("candidates", 0, "trials", 0, "items"), "many", "."),
        (("reason",), "x" * 20_000, "letters"),
    ],
)
def test_a_file_of_a_stranger_is_checked(tmp_path, place, value, told):
    plain = whole().to_plain()
    plain = json.loads(json.dumps(plain))
    *path, last = place
    inner = plain
    for step in path:
        inner = inner[step]
    inner[last] = value
    file = tmp_path / "rehearsal.json"
    file.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=told):
        read_rehearsal(file)


def test_a_training_may_gain_by_the_classes_that_were_hidden():
    # Of two thirds of the classes 0.2, so of all of them between 0.2 and 0.3.
    assert intervals.most_gain(0.2, 1 / 3) == pytest.approx(0.1)
    assert intervals.most_gain(-0.2, 1 / 3) == 0
    drawn = np.linspace(0.4, 0.6, 4001)
    found = intervals.between(drawn, 0.5, 0.1)
    assert found.low == pytest.approx(0.41)
    assert found.expected == pytest.approx(0.55)
    assert found.high == pytest.approx(0.69)
    assert intervals.between(drawn, 0.5, 0.0) == intervals.interval(drawn, 0.5)
    assert intervals.between(drawn, 0.5, 0.7).high == 1
