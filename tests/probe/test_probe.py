"""The probe of raw gradients that are known, and each of its rules."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax.diagnostics import ProbeReport, probe

# ---------------------------------------------------------------------------
# Oracle: a report from gradients (S, K, n) themselves, in float64
# ---------------------------------------------------------------------------


def cosines_of(left, right):
    lengths = [np.linalg.norm(x, axis=-1) for x in (left, right)]
    size = lengths[0][..., :, None] * lengths[1][..., None, :]
    return left @ right.swapaxes(-1, -2) / np.where(size > 0, size, 1.0)


def with_sum(gradients, summed):
    total = summed.sum(axis=-2, keepdims=True)
    return cosines_of(gradients, total)[..., 0]


def best_worst_cosine(gradients):
    """By search over directions of a plane: for gradients in two dimensions."""
    angle = np.linspace(0, 2 * np.pi, 20001)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return cosines_of(gradients, directions).min(axis=-2).max(axis=-1)


def report_of(gradients, splits=None, attainable=None):
    """Of S x K gradients with n entries, split into leaves at ``splits``."""
    gradients = np.asarray(gradients, np.float64)
    number = gradients.shape[1]
    parts = np.split(gradients, splits or [], axis=-1)
    norms = np.linalg.norm(gradients, axis=-1)
    units = gradients / np.where(norms > 0, norms, 1.0)[..., None]
    if attainable is None:
        attainable = best_worst_cosine(gradients)
    return ProbeReport(
        names=tuple("abcdefgh"[:number]),
        layers=tuple(f"layer{i}" for i in range(len(parts))),
        losses=np.ones(norms.shape),
        norms=norms,
        cosines=cosines_of(gradients, gradients),
        progress=with_sum(gradients, gradients),
        balanced_progress=with_sum(units, units),
        attainable=attainable,
        layer_norms=np.stack([np.linalg.norm(p, axis=-1) for p in parts], axis=-1),
        layer_cosines=np.stack([cosines_of(p, p) for p in parts], axis=-1),
        cosines_across=cosines_of(gradients[:-1], gradients[1:]),
        progress_across=with_sum(gradients[:-1], gradients[1:]),
        trained=False,
        gradient_bytes=4 * gradients.shape[-1],
    )


# ---------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------

NUMBER, STEPS = 3, 4
RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(STEPS, NUMBER, 10))
# Norms from 1e-20 to 1e15: no cosine may notice.
SCALES = {"none": np.ones(3), "wild": np.array([1e-20, 1.0, 1e15])}


def linear_losses(params, batch):
    """Losses whose gradients are the batch's rows: "w" has 4 entries, "b" 6."""
    flat = jnp.concatenate([params["b"].reshape(-1), params["w"]])
    losses = jnp.sum(batch * flat, axis=1)
    return {"z": losses[2], "x": losses[0], "y": losses[1]}


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_agrees_with_the_gradients_themselves(scale):
    params = {"w": np.zeros(4, np.float32), "b": np.zeros((2, 3), np.float32)}
    gradients = GRADIENTS * SCALES[scale][:, None]
    found = probe(linear_losses, params, jnp.asarray(gradients, jnp.float32))
    # K = 3 vectors of 10 entries aren't in a plane: the norm of the shortest convex
    # combination of the unit gradients, by a search over the simplex.
    grid = np.linspace(0, 1, 401)
    weights = np.array([(a, b, 1 - a - b) for a in grid for b in grid if a + b <= 1])
    units = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
    shortest = np.linalg.norm(np.einsum("wk,skn->swn", weights, units), axis=-1)
    wanted = report_of(gradients, [6], attainable=shortest.min(axis=1))
    assert found.names == ("x", "y", "z")
    assert found.layers == ("b", "w")
    assert (found.trained, found.gradient_bytes) == (False, 40)
    np.testing.assert_array_equal(found.losses, np.zeros((STEPS, NUMBER)))
    for name in ("norms", "layer_norms"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=1e-5, err_msg=name
        )
    for name in ("cosines", "layer_cosines", "cosines_across", "attainable"):
        # Sums of 10 float32 products; the grid's step of 1/400 moves the norm by the
        # square of that.
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), atol=1e-5, err_msg=name
        )
    for name in ("progress", "balanced_progress", "progress_across"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(found.norm_ratio, wanted.norm_ratio, rtol=1e-5)
    np.testing.assert_allclose(found.signal, wanted.signal, atol=1e-5)
    np.testing.assert_allclose(
        found.conflict_by_layer, wanted.conflict_by_layer, atol=1e-5
    )
    assert found.conflict_by_layer.sum() == pytest.approx(1.0)
    assert all(isinstance(x, np.ndarray) for x in found[2:-3])
    assert found.applied is None


def two_bowls(w, batch):
    del batch
    return jnp.sum((w - 1) ** 2) / 2, jnp.sum((w + 1) ** 2) / 2


@pytest.mark.parametrize("optimizer", [0.1, optax.sgd(0.1)])
def test_trains_on_the_plain_sum(optimizer):
    """The sum is |w|^2 + n: each step takes w to 0.8 w."""
    found = probe(two_bowls, jnp.full(4, 3.0), [None] * 3, optimizer=optimizer)
    w = 3.0 * 0.8 ** np.arange(3)
    assert found.trained
    np.testing.assert_allclose(
        found.losses, np.stack([2 * (w - 1) ** 2, 2 * (w + 1) ** 2], axis=1), rtol=1e-6
    )


def test_at_the_optimum_of_the_sum_the_sum_has_no_direction():
    found = probe(two_bowls, jnp.zeros(4), [None])
    np.testing.assert_array_equal(found.progress, np.zeros((1, 2)))
    np.testing.assert_array_equal(found.cosines[0], [[1, -1], [-1, 1]])
    np.testing.assert_allclose(found.attainable, 0, atol=1e-3)  # sqrt of rounding
    assert found.cosines_across.shape == (0, 2, 2)
    assert np.isnan(found.signal).all()
    assert "Only 1 steps" in str(found)


def test_compiles_once_and_takes_at_most_a_hundred_of_endless_batches():
    traces = []

    def losses_fn(w, batch):
        traces.append(0)
        return jnp.stack([w * batch, w**2])

    found = probe(losses_fn, 1.0, map(np.float32, itertools.count()), optimizer=0.01)
    assert len(found.norms) == 100
    # The form of the losses; gradients, and losses after this step and the last one.
    assert len(traces) == 4
    assert len(probe(losses_fn, 1.0, itertools.repeat(2.0), steps=2).norms) == 2


def test_one_objective():
    found = probe(lambda w, batch: {"only": w * batch}, 1.0, [2.0, 3.0])
    assert found.advice == ("One objective: there is nothing to aggregate.",)
    assert "only" in str(found)
    np.testing.assert_allclose(found.progress, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": []}, "batches is empty"),
        ({"steps": 0}, "steps must be an int >= 1"),
        ({"steps": 2.0}, "steps must be an int >= 1"),
        ({"names": ("a",)}, "names must be 2 different strings"),
        ({"names": "ab"}, "names must be 2 different strings"),
        ({"names": ("a", "a")}, "names must be 2 different strings"),
        ({"optimizer": "sgd"}, "optimizer must be"),
        ({"losses_fn": lambda w, batch: w}, r"must return an array \(K,\)"),
    ],
)
def test_bad_arguments(options, message):
    arguments = {
        "losses_fn": two_bowls,
        "params": jnp.zeros((2, 2)),
        "batches": [None],
    } | options
    with pytest.raises(ValueError, match=message):
        probe(
            arguments.pop("losses_fn"),
            arguments.pop("params"),
            arguments.pop("batches"),
            **arguments,
        )


def test_names_of_a_tuple():
    assert probe(two_bowls, jnp.ones(2), [None], names=["l", "r"]).names == ("l", "r")


# ---------------------------------------------------------------------------
# What it says: each rule on gradients that are built to call for it
# ---------------------------------------------------------------------------

MANY = 40


def constant(*rows):
    return np.broadcast_to(np.array(rows, float), (MANY, len(rows), len(rows[0])))


def said(report):
    return " | ".join(report.advice)


def test_aligned():
    assert report_of(constant((1, 0), (1, 1))).advice == (
        "The plain sum increased no objective in 100 % of 40 steps: summing is fine.",
    )


def test_a_little_conflict_is_fine():
    gradients = constant((1, 0.1), (1, 1)).copy()
    gradients[:3, 0] = (-0.5, 0)  # 3 of 40 steps
    text = said(report_of(gradients))
    assert "no objective in 92 % of 40 steps: summing is fine" in text
    gradients[:5, 0] = (-0.5, 0)  # 5 of 40: more than 10 %
    assert "The plain sum increased 'a' in 12 %" in said(report_of(gradients))


def test_imbalance_without_conflict():
    text = said(report_of(constant((0.5, 0.5), (40, 0))))
    assert "'b' is 56.6 times as long as that of 'a'" in text
    assert "summing is fine" in text
    assert "equal length" not in text


def test_imbalance_that_makes_the_conflict():
    # The sum of unit gradients never conflicts with two objectives.
    text = said(report_of(constant((-0.5, 1), (40, 0))))
    assert "fix the loss weights first" in text
    assert "increase no objective in 100 % of the steps: weights may be all" in text
    assert "The plain sum increased 'a' in 100 % of 40 steps" in text


def test_no_balance_helps_where_two_gang_up():
    # Of equal length, a and b together outweigh c as c outweighed them.
    text = said(report_of(constant((-1, 0.1), (-1, 0.1), (20, 0.1))))
    assert "fix the loss weights first" in text
    assert "weights may be all" not in text


def test_conflict():
    text = said(report_of(constant((-1, 1), (3, 0))))
    assert "The plain sum increased 'a' in 100 %" in text
    # Half the angle of 135 degrees: cos 67.5 = 0.38.
    assert "A direction with a cosine of 0.38 or more" in text
    assert "upgrad" in text


def test_opposed():
    text = said(report_of(constant((-1, 0.01), (3, 0))))
    assert "nearly opposed" in text
    assert "upgrad" not in text


def test_noise():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(MANY, 1, 2))
    # Opposed within each batch, by noise alone; unrelated from batch to batch.
    gradients = shared * np.array([1.0, -2.0])[:, None] + rng.normal(
        scale=0.3, size=(MANY, 2, 2)
    )
    report = report_of(gradients)
    assert np.abs(report.signal).max() < 0.3
    assert "doesn't survive a change of batch" in said(report)
    # The same conflict in every batch does survive it.
    steady = constant((1, 0.2), (-2, 0.2)) + rng.normal(scale=0.1, size=(MANY, 2, 2))
    report = report_of(steady)
    assert report.signal.min() > 0.9
    assert "are worth a run" in said(report)


def test_conflict_that_comes_and_goes():
    sides = np.tile([1.0, -1.0, 1.0, 1.0], MANY // 4)[:, None]
    first = np.stack([np.ones((MANY, 1)), np.zeros((MANY, 1))], axis=2)
    second = np.stack([sides, 2 * np.ones((MANY, 1))], axis=2)
    report = report_of(np.concatenate([first, second], axis=1))
    # Cosines of one size, of which a quarter are below 0.
    np.testing.assert_allclose(report.persistence, [[-1, -0.5], [-0.5, -1]])
    assert "0.00 of it persists" in said(report)
    assert "conflict_memory" in said(report)
    sides = -sides
    second = np.stack([sides, 2 * np.ones((MANY, 1))], axis=2)
    report = report_of(np.concatenate([first, second], axis=1))
    np.testing.assert_allclose(report.persistence[0, 1], 0.5)
    assert "persists" not in " ".join(report.advice)
    assert "persists" not in said(report_of(constant((1, 0), (1, 1))))


def test_where():
    gradients = np.zeros((MANY, 2, 8))
    gradients[:, :, 0] = 1, -3
    gradients[:, :, 1:] = 0.1
    report = report_of(gradients, list(range(1, 8)), attainable=np.full(MANY, 0.3))
    assert "100 % of the conflict sits in 'layer0' (1 of 8 leaves)" in said(report)
    gradients[:, :, :5] = np.array([1, -3])[:, None]  # spread over more than a third
    report = report_of(gradients, list(range(1, 8)), attainable=np.full(MANY, 0.3))
    assert "sits in" not in said(report)
    np.testing.assert_allclose(report.conflict_by_layer, [0.2] * 5 + [0] * 3)


def test_not_finite():
    gradients = constant((1, 0), (1, 1)).copy()
    gradients[4, 1, 0] = np.nan
    report = report_of(gradients)
    assert "'b' was not finite; 1 of 40 steps are left out" in said(report)
    assert "100 % of 39 steps: summing is fine" in said(report)
    assert "nan" not in str(report)
    gradients[:] = np.inf
    with np.errstate(invalid="ignore"):
        report = report_of(gradients)
    assert report.advice[0].endswith("40 of 40 steps are left out. Mend that first.")
    assert len(report.advice) == 1
    assert str(report)


def test_zero_gradients():
    report = report_of(constant((0, 0), (1, 1), (1, 0)))
    assert "'a' has a zero gradient in every step" in said(report)
    assert "summing is fine" in said(report)
    report = report_of(constant((0, 0), (1, 1)))
    assert "nothing to aggregate" in said(report)
    assert report.norm_ratio.tolist() == [1.0] * MANY


def test_the_table():
    lines = str(report_of(constant((-1, 1), (3, 0)))).splitlines()
    assert lines[0] == (
        "40 steps at fixed parameters; an aggregator takes 1.67 times the work of the "
        "sum and 8 B more memory."
    )
    assert lines[2].split() == [
        "objective",
        "norm",
        "loss",
        "cos(sum)",
        "lowest",
        "increased",
        "signal",
    ]
    # The sum is (2, 1): cosines -1 / sqrt(10) and 2 / sqrt(5).
    assert lines[3].split() == ["a", "1.41", "1", "-0.32", "-0.32", "100", "%", "1.00"]
    assert lines[4].split() == ["b", "3", "1", "+0.89", "+0.89", "0", "%", "1.00"]
    assert lines[7].split() == [
        *("a,", "b", "-0.71", "0.00", "100", "%", "-0.71"),
        *("-0.71", "-0.71", "-0.71"),  # without noise, and its interval
        "+1.00",  # it persists
    ]


def test_under_x64():
    with jax.enable_x64(True):
        found = probe(two_bowls, jnp.full(4, 3.0), [None] * 2, optimizer=0.1)
    assert found.losses.dtype == np.float64
    np.testing.assert_allclose(found.cosines[0], 1.0, atol=1e-6)
