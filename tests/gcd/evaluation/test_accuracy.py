"""The Hungarian accuracy against the published implementation and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd.evaluation.accuracy import cluster_accuracy
from tests.gcd import golden


@pytest.mark.parametrize("name", ["cluster_accuracy_0", "cluster_accuracy_1"])
@pytest.mark.parametrize("balanced", [False, True])
def test_matches_the_published_implementation(name, balanced):
    case = golden.load(name)
    found = cluster_accuracy(
        case["y_true"], case["y_pred"], case["old_mask"], balanced=balanced
    )
    expected = case["acc_v2_balanced" if balanced else "acc_v2"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(seed=st.integers(0, 2**16), clusters=st.integers(1, 5))
def test_the_matching_is_the_best_of_all(seed, clusters):
    random = np.random.default_rng(seed)
    true, pred = random.integers(0, 4, 20), random.integers(0, clusters, 20)
    found = cluster_accuracy(true, pred, true < 2)
    best = max(
        np.mean(np.array(match)[pred] == true)
        for match in itertools.permutations(range(5))
    )
    assert found.all == pytest.approx(best)


@given(seed=st.integers(0, 2**16), balanced=st.booleans())
def test_names_of_clusters_do_not_matter(seed, balanced):
    random = np.random.default_rng(seed)
    true = np.repeat(np.arange(4), [9, 7, 5, 3])
    # One astray per class: one matching is clearly best, so Old and New are unique.
    pred = true.copy()
    pred[[0, 9, 16, 21]] = random.integers(0, 4, 4)
    renamed = random.permutation(6)[pred]
    assert cluster_accuracy(true, renamed, true < 2, balanced=balanced) == (
        cluster_accuracy(true, pred, true < 2, balanced=balanced)
    )


def test_all_is_the_weighted_mean_of_old_and_new():
    random = np.random.default_rng(0)
    true, pred = random.integers(0, 6, 200), random.integers(0, 8, 200)
    found = cluster_accuracy(true, pred, true < 2)
    share = np.mean(true < 2)
    assert found.all == pytest.approx(share * found.old + (1 - share) * found.new)


def test_balanced_counts_classes_not_samples():
    true = np.array([0] * 9 + [1])
    pred = np.zeros(10, int)
    assert cluster_accuracy(true, pred, true == 0).all == 0.9
    assert cluster_accuracy(true, pred, true == 0, balanced=True).all == 0.5


def test_an_empty_group_is_nan():
    found = cluster_accuracy([0, 1], [1, 0], [True, True])
    assert found[:2] == (1.0, 1.0)
    assert np.isnan(found.new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0], [True, True]), "same shape"),
        (([0, 1], [0, 1], [True]), "same shape"),
        (([], [], []), "y_true must have shape"),
        (([[0]], [0], [True]), "y_true must have shape"),
        (([0, 1], [0.0, 1.0], [True, True]), "y_pred must hold integers"),
        (([0, -1], [0, 1], [True, True]), "y_true must hold integers >= 0"),
        (([0, 1], [0, 1], [1, 0]), "old_mask must be boolean"),
        (([0, 0], [0, 1], [True, False]), "old_mask marks the same class"),
    ],
)
def test_wrong_use_names_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_accuracy(*(np.array(a) for a in arguments))
