"""The split's promises."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import ArrayItems
from eagc_jax.gcd.sources.strings import RowNumbers


@pytest.fixture(scope="module")
def digits():
    classes = np.random.default_rng(0).integers(0, 10, 300)
    return sources.fully_labeled(
        "digits",
        "embedding",
        ArrayItems(np.zeros((300, 2), np.float32)),
        RowNumbers(300),
        classes,
        tuple("0123456789"),
    )


def test_half_of_the_known_classes_items_are_labeled(digits):
    posed = sources.pose(digits, range(5))
    assert posed.labeled_mask.sum() == posed.old_mask.sum() // 2
    assert not np.any(posed.labeled_mask & ~posed.old_mask)
    assert np.all(posed.labels[~posed.labeled_mask] == -1)
    labeled = posed.labeled_mask
    np.testing.assert_array_equal(posed.labels[labeled], posed.truth[labeled])
    np.testing.assert_array_equal(sources.pose(digits, range(5)).labels, posed.labels)
    again = sources.pose(posed, range(5))  # what was posed once can be posed anew
    np.testing.assert_array_equal(again.labels, posed.labels)


def test_draws_are_those_of_the_generators_named(digits):
    candidates = np.flatnonzero(digits.truth < 5)
    number = int(0.3 * len(candidates))
    expected = np.random.default_rng(4).choice(candidates, number, replace=False)
    posed = sources.pose(digits, range(5), labeled_share=0.3, seed=4)
    np.testing.assert_array_equal(np.flatnonzero(posed.labeled_mask), np.sort(expected))
    # The papers' code seeds NumPy's one generator of old.
    expected = candidates[np.random.RandomState(0).permutation(len(candidates))]
    half = len(candidates) // 2
    posed = sources.pose(digits, range(5), draw="papers")
    np.testing.assert_array_equal(
        np.flatnonzero(posed.labeled_mask), np.sort(expected[:half])
    )


@given(known=st.sets(st.integers(0, 9), min_size=1, max_size=9), seed=st.integers(0, 9))
def test_classes_are_renumbered_known_first(digits, known, seed):
    order = sorted(known, key=lambda c: (c * 7 + seed) % 10)
    posed = sources.pose(digits, order, seed=seed)
    assert posed.class_names[: len(order)] == tuple(map(str, order))
    original = np.array(posed.class_names).astype(int)[posed.truth]
    np.testing.assert_array_equal(original, digits.truth)
    np.testing.assert_array_equal(posed.old_mask, np.isin(digits.truth, order))
    rest = [c for c in range(10) if c not in known][::-1]
    turned = sources.pose(digits, order, novel_classes=rest, seed=seed)
    assert turned.class_names == tuple(map(str, order + rest))
    np.testing.assert_array_equal(turned.labels, posed.labels)


@given(seed=st.integers(0, 1000))
def test_every_second_class_and_half_of_each(digits, seed):
    posed = sources.pose_half(digits, seed=seed)
    assert posed.num_known == 5
    original = np.array(posed.class_names).astype(int)[posed.truth]
    np.testing.assert_array_equal(original, digits.truth)
    for c in range(5):
        assert (posed.labels == c).sum() == (posed.truth == c).sum() // 2
    assert not np.any(posed.labeled_mask & ~posed.old_mask)


def test_wrong_use_names_the_argument(digits):
    for known in (range(10), [1, 1], [12], []):
        with pytest.raises(ValueError, match="known_classes must be some, but not all"):
            sources.pose(digits, known)
    with pytest.raises(ValueError, match="novel_classes must be those that are not"):
        sources.pose(digits, range(5), novel_classes=range(6, 10))
    with pytest.raises(ValueError, match="labeled_share must be in"):
        sources.pose(digits, range(5), labeled_share=1.0)
    with pytest.raises(ValueError, match="draw must be one of"):
        sources.pose(digits, range(5), draw="paper")
    some = dataclasses.replace(
        digits, truth=None, labels=np.where(np.arange(300) == 7, -1, digits.labels)
    )
    with pytest.raises(ValueError, match="1 have none, the first is '7'"):
        sources.pose(some, range(5))
    one = dataclasses.replace(
        digits,
        truth=0 * digits.truth,
        class_names=("a",),
        num_known=1,
        labels=0 * digits.labels,
    )
    with pytest.raises(ValueError, match=r"at least two classes .* found a"):
        sources.pose_half(one)


def test_half_of_each_alphabet_is_known():
    sizes = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 25}
    names = [f"{a}/character{i:02d}" for a, n in sizes.items() for i in range(n)]
    known = sources.half_of_each_group(names)
    assert list(known) == sorted(set(known))
    counts = {a: sum(names[k].startswith(a) for k in known) for a in sizes}
    assert counts == {"Balinese": 12, "Early_Aramaic": 11, "Greek": 12}
    assert known == sources.half_of_each_group(names)
    assert known != sources.half_of_each_group(names, seed=1)
