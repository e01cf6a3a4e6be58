"""The objectives against the published implementation, NumPy and their own limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import checkify
from jax.test_util import check_grads

from eagc_jax.gcd import losses
from tests.gcd import golden

CASES = ["simgcd_losses_0", "simgcd_losses_1"]
RANDOM = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def teacher_temperature(epoch):
    """0.07 falling linearly to 0.04 over the first 6 epochs, both ends included."""
    return float(np.linspace(0.07, 0.04, 6)[min(epoch, 5)])


def published_total(logits, projections, labels, mask):
    """The combination whose value and gradients the golden files hold."""
    distilled = losses.self_distillation(
        logits, logits, teacher_temperature=teacher_temperature(3)
    )
    return (
        0.65 * (distilled + 2 * losses.mean_entropy_regularizer(logits))
        + 0.35 * losses.labeled_cross_entropy(logits, labels, mask)
        + 0.65 * losses.info_nce(projections)
        + 0.35 * losses.supervised_contrastive(projections, labels, mask)
    )


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return golden.load(request.param)


@jax.jit
def published_values(logits, projections, labels, mask):
    """Each of the losses, by its name in the golden files."""
    distilled = {
        f"cluster_loss_epoch{epoch}": losses.self_distillation(
            logits, logits, teacher_temperature=teacher_temperature(epoch)
        )
        for epoch in (0, 3, 19)
    }
    return distilled | {
        "cls_loss": losses.labeled_cross_entropy(logits, labels, mask),
        "me_max": losses.mean_entropy_regularizer(logits),
        "info_nce": losses.info_nce(projections),
        "sup_con": losses.supervised_contrastive(projections, labels, mask),
        "total": published_total(logits, projections, labels, mask),
    }


def test_values_match_the_published_implementation(case):
    found = published_values(
        case["logits"], case["projections"], case["labels"], case["labeled_mask"]
    )
    for name, value in found.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, case[name], rtol=1e-5, err_msg=name)


def test_gradients_match_the_published_implementation(case):
    _, gradients = jitted_value_and_grads(
        case["logits"], case["projections"], case["labels"], case["labeled_mask"]
    )
    for found, name in zip(gradients, ("grad_logits", "grad_projections"), strict=True):
        # Relative to the tensor: entries that nearly cancel carry no digits of their
        # own in float32.
        scale = np.abs(case[name]).max()
        np.testing.assert_allclose(
            found, case[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )


jitted_total = jax.jit(published_total)
jitted_value_and_grads = jax.jit(jax.value_and_grad(published_total, argnums=(0, 1)))
jitted_info_nce = jax.jit(losses.info_nce)
jitted_supervised_contrastive = jax.jit(losses.supervised_contrastive)


def numpy_supervised_contrastive(projections, labels, mask, temperature):
    """Row by row in float64, as the formula reads."""
    unit = projections / np.linalg.norm(projections, axis=1, keepdims=True)
    labels, mask = np.tile(labels, 2), np.tile(mask, 2)
    rows = np.flatnonzero(mask)
    terms = []
    for i in rows:
        others = rows[rows != i]
        scores = unit[others] @ unit[i] / temperature
        log_probs = scores - np.log(np.exp(scores).sum())
        positive = labels[others] == labels[i]
        terms.append(-log_probs[positive].mean() if positive.any() else 0.0)
    return np.mean(terms)


def numpy_info_nce(projections, temperature):
    unit = projections / np.linalg.norm(projections, axis=1, keepdims=True)
    size = len(unit)
    terms = []
    for i in range(size):
        others = np.delete(np.arange(size), i)
        scores = unit[others] @ unit[i] / temperature
        positive = unit[(i + size // 2) % size] @ unit[i] / temperature
        terms.append(np.log(np.exp(scores).sum()) - positive)
    return np.mean(terms)


@given(seed=st.integers(0, 2**16), temperature=st.sampled_from([0.07, 0.5, 1.0]))
def test_contrastive_losses_match_float64_loops(seed, temperature):
    random = np.random.default_rng(seed)
    projections = random.normal(size=(12, 5))
    labels = random.integers(-1, 3, size=6)
    mask = np.arange(6) < random.integers(1, 7)  # at least one labeled image
    single = projections.astype(np.float32)
    np.testing.assert_allclose(
        jitted_supervised_contrastive(single, labels, mask, temperature=temperature),
        numpy_supervised_contrastive(projections, labels, mask, temperature),
        rtol=2e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        jitted_info_nce(single, temperature=temperature),
        numpy_info_nce(projections, temperature),
        rtol=2e-5,
        atol=1e-6,
    )


@given(seed=st.integers(0, 2**16))
def test_order_of_images_and_meaning_of_unlabeled_labels_do_not_matter(seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(12, 4)).astype(np.float32)
    labels, mask = random.integers(0, 4, size=6), random.random(6) < 0.5
    order = random.permutation(6)
    both_views = np.concatenate([order, order + 6])
    expected = jitted_total(logits, logits, labels, mask)
    shuffled = jitted_total(
        logits[both_views], logits[both_views], labels[order], mask[order]
    )
    np.testing.assert_allclose(shuffled, expected, rtol=1e-5)
    nonsense = np.where(mask, labels, random.choice([-1, 99]))
    np.testing.assert_array_equal(
        jitted_total(logits, logits, nonsense, mask), expected
    )


@pytest.mark.parametrize("labeled", [0, 1, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite_whatever_is_labeled_and_however_large_the_logits(labeled, scale):
    logits = np.float32(scale) * RANDOM
    mask = np.arange(4) < labeled
    labels = np.where(mask, np.arange(4) % 3, -1)
    value, gradients = jitted_value_and_grads(logits, logits, labels, mask)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_no_nan_on_the_way_either():
    """For people who debug with jax_debug_nans, which looks at every single op."""
    for loss in (losses.labeled_cross_entropy, losses.supervised_contrastive):
        looked_at = checkify.checkify(jax.grad(loss), errors=checkify.nan_checks)
        error, gradient = jax.jit(looked_at)(
            RANDOM[:4], np.full((2,), 99), np.zeros(2, bool)
        )
        error.throw()
        assert np.isfinite(gradient).all()


def test_labeled_terms_vanish_without_labeled_rows():
    labels, nobody = np.full((4,), -1), np.zeros(4, bool)
    for loss in (losses.labeled_cross_entropy, losses.supervised_contrastive):
        value, gradient = jax.jit(jax.value_and_grad(loss))(RANDOM, labels, nobody)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_no_gradient_reaches_the_teacher():
    def loss(teacher):
        return losses.self_distillation(RANDOM, teacher, teacher_temperature=0.05)

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(2 * RANDOM), 0)


def test_entropy_regularizer_is_zero_at_uniform_use_and_log_c_at_collapse():
    one_each = 100 * np.tile(np.eye(4, dtype=np.float32), (2, 1))
    collapsed = np.tile(one_each[2], (8, 1))
    both = jax.jit(jax.value_and_grad(losses.mean_entropy_regularizer))
    value, gradient = both(collapsed)
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert abs(both(one_each)[0]) < 1e-6


def test_gradients_match_finite_differences():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        logits, projections = random.normal(size=(2, 8, 3))
        labels, mask = np.array([0, 2, 1, -1]), np.array([True, True, True, False])

        @jax.jit
        def smooth(logits, projections):  # without the teacher's stopped gradient
            return (
                losses.labeled_cross_entropy(logits, labels, mask)
                + losses.mean_entropy_regularizer(logits)
                + losses.info_nce(projections)
                + losses.supervised_contrastive(projections, labels, mask)
            )

        check_grads(smooth, (logits, projections), order=1, rtol=1e-5, atol=1e-5)


def test_half_precision_is_computed_in_float32():
    logits = RANDOM.astype(jnp.bfloat16)
    labels, mask = np.arange(4) % 3, np.ones(4, bool)
    value, gradient = jax.jit(jax.value_and_grad(published_total))(
        logits, logits, labels, mask
    )
    exact = jitted_total(logits.astype(np.float32), logits, labels, mask)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=1e-6)


ROWS, LABELS, MASK = np.zeros((4, 3), np.float32), np.array([0, 1]), np.ones(2, bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.info_nce(ROWS[:3]), "projections must have shape"),
        (lambda: losses.info_nce(ROWS[0]), "projections must have shape"),
        (lambda: losses.info_nce(ROWS[:0]), "projections must have shape"),
        (lambda: losses.info_nce(ROWS.astype(int)), "projections must be floating"),
        (
            lambda: losses.info_nce(ROWS, temperature=0.0),
            "temperature must be positive",
        ),
        (
            lambda: losses.labeled_cross_entropy(ROWS, np.arange(4), MASK),
            r"labels must have shape \(2,\)",
        ),
        (
            lambda: losses.labeled_cross_entropy(ROWS, LABELS, np.ones(4, bool)),
            r"labeled_mask must have shape \(2,\)",
        ),
        (
            lambda: losses.supervised_contrastive(ROWS, LABELS, MASK.astype(int)),
            "labeled_mask must be boolean",
        ),
        (
            lambda: losses.supervised_contrastive(ROWS, LABELS * 1.0, MASK),
            "labels must be integers",
        ),
        (
            lambda: losses.self_distillation(
                ROWS, ROWS[:, :2], teacher_temperature=0.04
            ),
            "teacher_logits must have the shape of logits",
        ),
        (
            lambda: losses.self_distillation(ROWS, ROWS, teacher_temperature=-1.0),
            "teacher_temperature must be positive",
        ),
        (
            lambda: losses.mean_entropy_regularizer(ROWS[:3]),
            "logits must have shape",
        ),
    ],
)
def test_wrong_use_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
