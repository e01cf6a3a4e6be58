"""Where two assignments agree, and the difference of their accuracies."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eagc_jax.gcd.evaluation.accuracy import cluster_accuracy, correct_samples
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.runs.comparison.agreement import Division, agree
from eagc_jax.gcd.runs.comparison.paired import paired_accuracy


def of(clusters, names, num_known=2):
    rows = np.asarray(clusters, int)
    ones, ids = np.ones(len(rows)), tuple(map(str, range(len(rows))))
    return Assignment(ids, np.full(len(rows), -1), rows, names, num_known, *3 * [ones])


NAMES = ("cat", "dog", "novel-1", "novel-2")


def test_numbers_of_novel_categories_mean_nothing():
    first = of([0, 1, 2, 2, 3, 3], NAMES)
    second = of([0, 1, 3, 3, 2, 2], NAMES)
    found = agree(first, second)
    assert (found.ari, found.ami) == pytest.approx((1, 1))
    assert found.items == 6
    assert not len(found.changed)
    assert found.split == found.merged == ()


def test_known_classes_are_the_same_by_name_alone():
    # All cats and dogs are exchanged: the same partition, and every one has changed.
    first, second = of([0, 0, 1, 1, 2], NAMES), of([1, 1, 0, 0, 2], NAMES)
    found = agree(first, second)
    assert found.ari == 1
    assert found.changed.tolist() == [0, 1, 2, 3]
    # Another order of the classes is none of another name.
    turned = of([1, 1, 0, 0, 2], ("dog", "cat", "novel-1", "novel-2"))
    assert not len(agree(first, turned).changed)


def test_a_class_that_only_one_knows_is_matched_by_its_items():
    first = of([0, 1, 1, 2, 2], ("cat", "dog", "novel-1"))
    second = of([0, 1, 1, 2, 2], ("cat", "novel-1", "novel-2"), num_known=1)
    assert not len(agree(first, second).changed)


def test_splits_and_merges():
    first = of([2] * 20 + [0] * 10, NAMES)
    second = of([2] * 9 + [3] * 11 + [0] * 10, NAMES)
    found = agree(first, second)
    parts = (("novel-2", 11), ("novel-1", 9))
    assert found.split == (Division("novel-1", 20, parts),)
    assert found.merged == ()
    assert agree(second, first).merged == found.split
    # The larger part is the same category; the smaller has changed.
    assert found.changed.tolist() == [*range(9)]


def test_scattered_items_are_no_parts():
    first = of([2] * 20 + [3] * 20, NAMES)
    second = of(
        [2] * 19 + [3] * 21, NAMES
    )  # a single item of novel-2 comes from novel-1
    assert agree(first, second).split == ()
    with pytest.raises(ValueError, match="same items, got 40 and 1"):
        agree(first, of([0], NAMES))


def test_what_is_mostly_of_another_category_is_no_part():
    # Each half of novel-1 went to a category of which twice as many are cats or dogs.
    first = of([2] * 20 + [0] * 20 + [1] * 20, NAMES)
    second = of([0] * 10 + [1] * 10 + [0] * 20 + [1] * 20, NAMES)
    assert agree(first, second).split == ()


def test_no_items_agree_in_nothing():
    found = agree(of([], NAMES), of([], NAMES))
    assert np.isnan(found.ari)
    assert found.items == 0


@given(seed=st.integers(0, 2**16), clusters=st.integers(1, 5))
def test_correct_samples_make_the_accuracy(seed, clusters):
    random = np.random.default_rng(seed)
    true, pred = random.integers(0, 4, 20), random.integers(0, clusters, 20)
    right = correct_samples(true, pred)
    found = cluster_accuracy(true, pred, true < 2)
    assert right.mean() == pytest.approx(found.all)
    for mask, share in ((true < 2, found.old), (true >= 2, found.new)):
        assert not mask.any() or right[mask].mean() == pytest.approx(share)


def test_the_interval_is_the_bootstraps():
    random = np.random.default_rng(3)
    first, second = random.random(400) < 0.6, random.random(400) < 0.7
    found = paired_accuracy(first, second)
    rows = random.integers(0, 400, (4000, 400))
    means = second[rows].mean(axis=1) - first[rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    table = [found.better, found.worse]
    assert found.p_value == pytest.approx(
        stats.binomtest(*[table[0], sum(table)]).pvalue
    )
    turned = paired_accuracy(second, first)
    assert (turned.low, turned.high) == pytest.approx((-high, -low), abs=0.006)


def test_the_interval_covers():
    """In about 95 of 100 draws of items, the true difference lies in it."""
    random, held = np.random.default_rng(0), 0
    for _ in range(300):
        draws = random.random(300)
        first, second = draws < 0.6, (draws < 0.5) | (draws > 0.85)  # differ by 0.05
        found = paired_accuracy(first, second)
        held += found.low <= 0.05 <= found.high
    assert 275 <= held <= 297


def test_no_difference_and_no_items():
    same = paired_accuracy([True, False], [True, False])
    assert same == (0, 0, 0, 0, 0, 1)
    assert np.isnan(paired_accuracy([], []).difference)
    with pytest.raises(ValueError, match="same shape"):
        paired_accuracy([True], [True, False])
    with pytest.raises(ValueError, match="level"):
        paired_accuracy([True], [True], level=95)


def test_small_cases_by_hand():
    for first, second in itertools.product(
        itertools.product([0, 1], repeat=3), repeat=2
    ):
        found = paired_accuracy(first, second)
        assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
        assert found.low <= found.difference <= found.high
