"""RankStats' and vanilla GCD's objectives against float64 loops and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from eagc_jax.gcd import losses
from tests.gcd import golden

IMAGES, CLASSES, WIDTH = 6, 4, 5


def softmax(rows):
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def numpy_objectives(
    logits, features, labels, mask, *, weight, temperature, top_k, pair_labeled
):
    """Row by row and pair by pair in float64, as the formulas read."""
    first, second = np.split(softmax(logits / temperature), 2)
    crossed = [
        -np.log(view[i, labels[i]])
        for view in (first, second)
        for i in np.flatnonzero(mask)
    ]
    sets = [set(np.argsort(-row)[:top_k]) for row in features[: len(labels)]]
    pairs = []
    for i in range(len(labels)):
        for j in range(len(labels)):
            labeled = int(mask[i]) + int(mask[j])
            if labeled == 0 or (labeled == 1 and pair_labeled):
                same = first[i] @ second[j]
                likelihood = same if sets[i] == sets[j] else 1 - same
                pairs.append(-np.log(likelihood + 1e-7))
    squares = np.mean((first - second) ** 2)
    return (
        np.mean(crossed) if crossed else 0.0,
        (np.mean(pairs) if pairs else 0.0) + weight * squares,
    )


def objectives(logits, features, labels, mask, weight=3.0, pair_labeled=False):
    return losses.rankstats_objectives(
        logits,
        features,
        labels,
        mask,
        consistency_weight=weight,
        temperature=0.5,
        top_k=2,
        pair_labeled=pair_labeled,
    )


jitted_objectives = jax.jit(objectives, static_argnames="pair_labeled")
rank_statistics = jax.jit(losses.rank_statistics, static_argnames=("top_k", "by"))
pairwise_bce = jax.jit(losses.pairwise_bce)
jitted_gradients = jax.jit(
    jax.jacrev(objectives, argnums=(0, 1)), static_argnames="pair_labeled"
)


def random_case(seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2 * IMAGES, CLASSES))
    features = random.normal(size=(2 * IMAGES, WIDTH))
    # Some agree: each of the last three has the features of one of the first.
    features[3:IMAGES] = features[random.integers(0, 3, 3)] + 0.01
    labels = random.integers(0, CLASSES, size=IMAGES)
    mask = np.arange(IMAGES) < random.integers(0, IMAGES + 1)
    order = random.permutation(IMAGES)
    return logits, features, labels, mask[order]


@pytest.mark.parametrize("pair_labeled", [False, True])
@given(seed=st.integers(0, 2**16))
def test_rankstats_matches_float64_loops(pair_labeled, seed):
    logits, features, labels, mask = random_case(seed)
    found = jitted_objectives(
        np.float32(logits),
        np.float32(features),
        np.where(mask, labels, -1),
        mask,
        pair_labeled=pair_labeled,
    )
    expected = numpy_objectives(
        logits,
        features,
        labels,
        mask,
        weight=3.0,
        temperature=0.5,
        top_k=2,
        pair_labeled=pair_labeled,
    )
    # Means of 36 logarithms of float32 products; 1 - s loses a digit near s = 1.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**16), top_k=st.integers(1, WIDTH))
@pytest.mark.parametrize("by", ["value", "magnitude"])
def test_rank_statistics_compare_sets(by, seed, top_k):
    random = np.random.default_rng(seed)
    features = random.permuted(np.tile([3.0, -2.0, 1.0, -0.5, 0.25], (7, 1)), axis=1)
    found = np.asarray(rank_statistics(features, top_k, by=by))
    order = np.argsort(-(np.abs(features) if by == "magnitude" else features), axis=1)
    sets = [frozenset(row[:top_k]) for row in order]
    expected = [[first == second for second in sets] for first in sets]
    np.testing.assert_array_equal(found, expected)


def test_sign_decides_by_value_and_not_by_magnitude():
    rows = np.array([[5.0, 0.1, 0.2], [-5.0, 0.1, 0.2]])
    assert not np.asarray(losses.rank_statistics(rows, 1))[0, 1]  # op by op, for once
    assert np.asarray(rank_statistics(rows, 1, by="magnitude"))[0, 1]
    # Behind a ReLU there is no difference.
    rows = np.maximum(np.random.default_rng(0).normal(size=(40, 8)) + 0.5, 0)
    np.testing.assert_array_equal(
        rank_statistics(rows, 3), rank_statistics(rows, 3, by="magnitude")
    )


def test_rank_statistics_ignore_scale_and_break_ties_by_number():
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    expected = rank_statistics(rows, 2)
    tiny = np.float32(1e-20) * rows
    np.testing.assert_array_equal(rank_statistics(tiny, 2), expected)
    tied = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    found = np.asarray(rank_statistics(tied, 2))
    assert found[0].tolist() == [True, True, False]


def test_many_channels_are_counted_exactly():
    """Among 768 channels, sets of 300 that differ in one channel only."""
    first = np.arange(768.0)
    second = first.copy()
    second[467] = 468.5  # pushes channel 468 out of the 300 largest
    found = np.asarray(rank_statistics(np.stack([first, second, 2 * first]), 300))
    np.testing.assert_array_equal(found[0], [True, False, True])


def test_certain_pairs_cost_nothing_and_wrong_ones_a_bounded_price():
    sure, same = np.eye(3, dtype=np.float32), np.eye(3, dtype=bool)
    every = np.ones((3, 3), bool)
    assert abs(pairwise_bce(sure, sure, same, every)) < 2e-7
    wrong = pairwise_bce(sure, sure, ~same, every)
    np.testing.assert_allclose(wrong, -np.log(1e-7), rtol=1e-6)
    undecided = np.full((3, 4), 0.25, np.float32)
    np.testing.assert_allclose(
        losses.pairwise_bce(undecided, undecided, every, every), np.log(4), rtol=1e-5
    )


def test_probabilities_rounded_above_one_stay_finite():
    rows = np.array([[1.0 + 2e-6, 0.0], [0.0, 1.0]], np.float32)
    never, every = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    both = jax.jit(jax.value_and_grad(losses.pairwise_bce))
    value, gradient = both(rows, rows, never, every)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_masked_pairs_have_no_say():
    random = np.random.default_rng(0)
    first, second = (softmax(random.normal(size=(5, 3))) for _ in range(2))
    pairs, mask = random.random((2, 5, 5)) < 0.5
    kept = pairwise_bce(first, second, pairs, mask)
    flipped = pairwise_bce(first, second, pairs ^ ~mask, mask)
    assert kept == flipped
    terms = np.where(pairs, first @ second.T, 1 - first @ second.T)
    np.testing.assert_allclose(kept, -np.log(terms[mask]).mean(), rtol=1e-5)
    assert pairwise_bce(first, second, pairs, np.zeros_like(mask)) == 0


def test_consistency_is_the_mean_square():
    random = np.random.default_rng(0)
    first, second = random.random((2, 5, 3))
    np.testing.assert_allclose(
        losses.consistency(first, second), np.mean((first - second) ** 2), rtol=1e-6
    )
    assert losses.consistency(first, first) == 0


def test_rampup_follows_its_formula_and_stays_at_one():
    epochs = np.array([-3, 0, 10, 25, 49, 50, 80])
    found = jax.jit(jax.vmap(lambda epoch: losses.sigmoid_rampup(epoch, 50)))(epochs)
    expected = np.exp(-5 * (1 - np.clip(epochs / 50, 0, 1)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert losses.sigmoid_rampup(0, 0) == 1


@pytest.mark.parametrize("labeled", [0, 1, IMAGES])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("alike", [True, False])
def test_finite_whatever_is_labeled_and_however_alike(labeled, scale, alike):
    logits, features, labels, _ = random_case(0)
    if alike:  # identical rows, so that all pairs are equal
        logits, features = (np.tile(x[:1], (len(x), 1)) for x in (logits, features))
    mask = np.arange(IMAGES) < labeled
    labels = np.where(mask, labels, -1)
    arguments = (np.float32(scale * logits), np.float32(features), labels, mask)
    values = jitted_objectives(*arguments)
    gradients = jitted_gradients(*arguments)
    assert all(np.isfinite(x).all() for x in (*values, *jax.tree.leaves(gradients)))
    (supervised, _), (unsupervised, _) = gradients
    if labeled == 0:
        assert values[0] == 0
        np.testing.assert_array_equal(supervised, 0)
    if labeled == IMAGES and alike:  # neither pairs nor a difference of views
        # Equal rows' softmax may differ in the last bit.
        assert values[1] < 1e-12
        np.testing.assert_allclose(unsupervised, 0, atol=1e-6)


def test_no_gradient_reaches_the_ranked_features():
    logits, features, labels, mask = random_case(1)
    for _, by_features in jitted_gradients(logits, features, labels, mask):
        np.testing.assert_array_equal(by_features, 0)


@given(seed=st.integers(0, 2**16))
def test_order_of_images_and_meaning_of_unlabeled_labels_do_not_matter(seed):
    logits, features, labels, mask = map(np.asarray, random_case(seed))
    expected = jitted_objectives(logits, features, labels, mask)
    order = np.random.default_rng(seed).permutation(IMAGES)
    both = np.concatenate([order, order + IMAGES])
    shuffled = jitted_objectives(
        logits[both], features[both], labels[order], mask[order]
    )
    np.testing.assert_allclose(shuffled, expected, rtol=1e-5, atol=1e-7)
    nonsense = jitted_objectives(logits, features, np.where(mask, labels, 99), mask)
    np.testing.assert_array_equal(nonsense, expected)


def test_gradients_match_finite_differences():
    with jax.enable_x64(True):
        logits, features, labels, _ = random_case(2)
        mask = np.arange(IMAGES) < 3

        @jax.jit
        def smooth(logits):
            return sum(objectives(logits, features, labels, mask, pair_labeled=True))

        check_grads(smooth, (logits,), order=1, modes=["rev"])


def test_half_precision_is_computed_in_float32():
    logits, features, labels, mask = random_case(3)
    logits = logits.astype(jnp.bfloat16)
    found = jitted_objectives(logits, features, labels, mask)
    exact = jitted_objectives(logits.astype(np.float32), features, labels, mask)
    assert all(value.dtype == jnp.float32 for value in found)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["simgcd_losses_0", "simgcd_losses_1"])
def test_vanilla_gcd_matches_the_published_losses(name):
    """SimGCD took both terms over from vanilla GCD, temperatures included."""
    case = golden.load(name)
    supervised, unsupervised = jax.jit(losses.vanilla_gcd_objectives)(
        case["projections"], case["labels"], case["labeled_mask"]
    )
    np.testing.assert_allclose(supervised, case["sup_con"], rtol=1e-5)
    np.testing.assert_allclose(unsupervised, case["info_nce"], rtol=1e-5)


@pytest.mark.parametrize("labeled", [0, 1, 4])
@pytest.mark.parametrize("alike", [True, False])
def test_vanilla_gcd_is_finite_whatever_is_labeled(labeled, alike):
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    rows = np.tile(rows[:1], (8, 1)) if alike else rows
    mask = np.arange(4) < labeled
    labels = np.where(mask, np.arange(4) % 2, -1)
    jacobian = jitted_vanilla_jacobian(rows, labels, mask)
    assert all(np.isfinite(x).all() for x in jacobian)
    if labeled == 0:
        np.testing.assert_array_equal(jacobian[0], 0)


jitted_vanilla_jacobian = jax.jit(jax.jacrev(losses.vanilla_gcd_objectives))

P, SQUARE = np.full((3, 2), 0.5, np.float32), np.ones((3, 3), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.rank_statistics(P[0]), "features must be floats of shape"),
        (lambda: losses.rank_statistics(SQUARE), "features must be floats of shape"),
        (lambda: losses.rank_statistics(P, 3), r"top_k must be in \[1, 2\], got 3"),
        (lambda: losses.rank_statistics(P, 0), r"top_k must be in \[1, 2\], got 0"),
        (lambda: losses.rank_statistics(P, 1, by="rank"), "by must be"),
        (
            lambda: losses.pairwise_bce(P[0], P, SQUARE, SQUARE),
            r"probabilities must have shape \(B, C\)",
        ),
        (
            lambda: losses.pairwise_bce(P, P[:2], SQUARE, SQUARE),
            "other_probabilities must have the shape",
        ),
        (
            lambda: losses.pairwise_bce(P, P, SQUARE[:2], SQUARE),
            r"pairs must be booleans of shape \(3, 3\)",
        ),
        (
            lambda: losses.pairwise_bce(P, P, SQUARE, SQUARE.astype(int)),
            r"mask must be booleans of shape \(3, 3\)",
        ),
        (
            lambda: losses.consistency(P.astype(int), P),
            "probabilities must be floating",
        ),
        (
            lambda: losses.consistency(P, P[:2]),
            "other_probabilities must have the shape",
        ),
        (lambda: losses.sigmoid_rampup(1, -1), "length must be at least 0"),
        (
            lambda: objectives(P[:2], P[:1].repeat(4, 0), np.array([0]), SQUARE[0, :1]),
            "features must have as many rows as logits, 2, got 4",
        ),
        (
            lambda: objectives(P, P, np.array([0]), SQUARE[0, :1]),
            "logits must have shape",
        ),
    ],
)
def test_wrong_use_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
