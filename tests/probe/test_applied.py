"""What a probe says of the optimizer's own steps, against NumPy in float64."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax.diagnostics import AppliedReport, probe
from tests.probe.test_probe import report_of, two_bowls

K, STEPS, WIDTH = 3, 6, 10
ROWS = np.random.default_rng(1).normal(size=(STEPS, K, WIDTH))
LOSSES = ROWS.astype(np.float32)
START = {"b": np.zeros((2, 3), np.float32), "w": np.ones(4, np.float32)}
B1, B2, EPS, RATE, DECAY = 0.8, 0.9, 1e-3, 0.05, 0.1


def linear(params, batch):
    """Losses whose gradients are the batch's rows, whatever the parameters are."""
    flat = jnp.concatenate([params["b"].reshape(-1), params["w"]])
    return batch @ flat


@dataclasses.dataclass
class Sgd:
    """With momentum, as optax.sgd has it."""

    momentum: float
    trace: float | np.ndarray = 0.0

    def __call__(self, gradient, params):
        return -RATE * (gradient + self.momentum * self.trace)

    def step(self, gradient):
        self.trace = gradient + self.momentum * self.trace


@dataclasses.dataclass
class AdamW:
    """Kingma and Ba, algorithm 1, and a decay of the parameters."""

    m: float | np.ndarray = 0.0
    v: float | np.ndarray = 0.0
    t: int = 0

    def moments(self, gradient):
        return B1 * self.m + (1 - B1) * gradient, B2 * self.v + (1 - B2) * gradient**2

    def __call__(self, gradient, params):
        m, v = self.moments(gradient)
        m, v = m / (1 - B1 ** (self.t + 1)), v / (1 - B2 ** (self.t + 1))
        return -RATE * (m / (np.sqrt(v) + EPS) + DECAY * params)

    def step(self, gradient):
        self.m, self.v = self.moments(gradient)
        self.t += 1


CASES = {
    "sgd": (optax.sgd(RATE), lambda: Sgd(0.0)),
    "momentum": (optax.sgd(RATE, momentum=0.9), lambda: Sgd(0.9)),
    "adamw": (
        optax.adamw(RATE, B1, B2, EPS, weight_decay=DECAY),
        AdamW,
    ),
}


def expected_of(make):
    """Every field of AppliedReport but `attainable`, step by step."""
    optimizer, found = make(), []
    params = np.concatenate([START["b"].reshape(-1), START["w"]]).astype(float)
    for step, rows in enumerate(ROWS):
        total, units = rows.sum(axis=0), rows / np.linalg.norm(rows, axis=1)[:, None]
        update = optimizer(total, params)
        # Derivatives by central differences: exact to 1e-9 in float64.
        h = 1e-5
        responses = np.stack(
            [
                (optimizer(total + h * u, params) - optimizer(total - h * u, params))
                / (2 * h)
                for u in units
            ]
        )
        products = -units[:, None] * responses[None]  # (K, K, WIDTH)
        later = ROWS[step + 1] @ update if step + 1 < STEPS else None
        found.append(
            {
                "progress": -(units @ update) / np.linalg.norm(update),
                "expected": rows @ update,
                "remembered": rows @ optimizer(np.zeros(WIDTH), params),
                "response": np.stack(
                    [products[..., :6].sum(-1), products[..., 6:].sum(-1)], axis=-1
                ),
                "change": rows @ update,  # linear losses
                "next_change": later,
            }
        )
        optimizer.step(total)
        params = params + update
    names = found[0]
    return {
        name: np.stack([one[name] for one in found if one[name] is not None])
        for name in names
    }


@pytest.mark.parametrize("name", CASES)
def test_every_field_is_that_of_the_equations(name):
    optimizer, make = CASES[name]
    found = probe(linear, START, LOSSES, optimizer=optimizer).applied
    wanted = expected_of(make)
    for field, value in wanted.items():
        got = getattr(found, field)
        assert got.shape == value.shape, field
        # Sums of ten float32 products of size 1, and moments of six steps; changes are
        # differences of losses of size 10, each rounded to 1e-6.
        tolerance = 5e-6 if "change" in field else 2e-6
        np.testing.assert_allclose(got, value, atol=tolerance, err_msg=field)


def test_with_plain_descent_the_applied_is_the_raw():
    found = probe(linear, START, LOSSES, optimizer=RATE)
    applied = found.applied
    np.testing.assert_allclose(applied.progress, found.progress, atol=1e-6)
    np.testing.assert_allclose(applied.cosines, found.cosines, atol=1e-6)
    np.testing.assert_allclose(applied.attainable, found.attainable, atol=1e-5)
    np.testing.assert_allclose(
        applied.conflict_by_layer, found.conflict_by_layer, atol=1e-5
    )
    np.testing.assert_array_equal(applied.remembered, np.zeros((STEPS, K)))
    assert not applied.by_memory.any()


def test_parameters_that_no_batch_reaches_hide_nothing():
    """Adam's root has no slope where every gradient was 0: of the rest it tells all."""

    def losses(params, batch):
        x = params["x"] * jnp.array([1.0, 1.0, 0.0])
        return jnp.sum((x - batch) ** 2), jnp.sum((x + batch) ** 2)

    params = {"x": np.array([0.3, -0.2, 1.0], np.float32)}
    batches = [np.array([1.0, 2.0, 0.0], np.float32)] * 4
    found = probe(losses, params, batches, optimizer=optax.adam(1e-2)).applied
    short = {"x": params["x"][:2]}
    known = probe(
        lambda p, b: losses({"x": jnp.append(p["x"], 0.0)}, b),
        short,
        batches,
        optimizer=optax.adam(1e-2),
    ).applied
    assert np.isfinite(known.response).all()
    np.testing.assert_array_equal(found.response, known.response)
    # Adam's first step is a sign, which has no slope.
    assert (found.cosines[1:, 0, 1] < -0.5).all()


def test_an_optimizer_without_a_derivative_has_no_metric():
    found = probe(linear, START, LOSSES, optimizer=optax.sign_sgd(RATE)).applied
    np.testing.assert_array_equal(found.response, np.zeros((STEPS, K, K, 2)))
    np.testing.assert_array_equal(found.cosines, np.zeros((STEPS, K, K)))
    assert np.abs(found.progress).max() > 0.1


def test_a_state_of_a_run_goes_on():
    optimizer = CASES["adamw"][0]
    whole = probe(linear, START, LOSSES, optimizer=optimizer)

    @jax.jit
    def step(params, state, rows):
        gradients = jax.grad(lambda p: jnp.sum(linear(p, rows)))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = START, optimizer.init(START)
    for rows in LOSSES[:2]:
        params, state = step(params, state, rows)
    rest = probe(linear, params, LOSSES[2:], optimizer=optimizer, opt_state=state)
    np.testing.assert_allclose(
        rest.applied.expected, whole.applied.expected[2:], rtol=1e-4, atol=1e-6
    )


def test_no_optimizer_is_no_applied_report():
    assert probe(linear, START, LOSSES).applied is None
    with pytest.raises(ValueError, match="opt_state was given without an optimizer"):
        probe(linear, START, LOSSES, opt_state=())


def test_two_per_cent_of_a_run():
    def number(**options):
        return len(probe(two_bowls, jnp.ones(2), [None] * 9, **options).norms)

    assert number(run_steps=200) == 4
    assert number(run_steps=200, steps=3) == 3
    assert number(run_steps=10) == 2
    with pytest.raises(
        ValueError, match="run_steps must be an int >= 1 or None, got 0"
    ):
        number(run_steps=0)


# ---------------------------------------------------------------------------
# What follows from it
# ---------------------------------------------------------------------------

MANY = 40


def applied_of(progress, *, remembered=0.0, response=None):
    """AppliedReport of (K,) cosines in each of 40 steps."""
    progress = np.broadcast_to(np.asarray(progress, float), (MANY, len(progress)))
    number = progress.shape[1]
    expected = -progress
    if response is None:
        response = np.eye(number)
    return AppliedReport(
        progress=progress,
        expected=expected,
        remembered=np.full((MANY, number), remembered),
        response=np.broadcast_to(response, (MANY, number, number))[..., None],
        attainable=np.full(MANY, 0.4),
        change=expected,
        next_change=expected[1:],
    )


def raw_of(*rows, applied=None):
    rows = np.broadcast_to(np.array(rows, float), (MANY, len(rows), len(rows[0])))
    return report_of(rows)._replace(applied=applied)


CONFLICT, ALIGNED = ((-1, 1), (3, 0)), ((1, 0), (1, 1))
PULLING = np.array([[1.0, -0.5], [-0.5, 1.0]])


def sometimes(share, progress):
    """applied_of, in a share of the steps; in the others no loss rises."""
    found = applied_of(progress)
    rare = np.arange(MANY)[:, None] < share * MANY
    return found._replace(progress=np.where(rare, found.progress, 0.3))


@pytest.mark.parametrize(
    ("rows", "applied", "family"),
    [
        (ALIGNED, None, "sum"),
        (CONFLICT, None, "aggregator"),
        (((-0.5, 1), (40, 0)), None, "weights"),
        (((-1, 0.01), (3, 0)), None, "preference"),
        (CONFLICT, applied_of([0.2, 0.3]), "sum"),
        (CONFLICT, applied_of([-0.2, 0.3]), "optimizer-aware"),
        (CONFLICT, applied_of([0.2, 0.3], response=PULLING), "aggregator"),
        (((0.5, 1), (40, 0)), applied_of([0.2, 0.3]), "weights"),
        (ALIGNED, sometimes(0.3, [-0.2, 0.3]), "noise"),
        (ALIGNED, sometimes(0.6, [-0.2, 0.3]), "optimizer-aware"),
        (CONFLICT, applied_of([-0.2, 0.3], remembered=0.3), "momentum"),
        (((1, 0),), None, "sum"),
        (((1, 0), (0, 0)), None, "sum"),
    ],
)
def test_the_verdict_is_about_the_step_that_is_applied(rows, applied, family):
    found = raw_of(*rows, applied=applied).verdict
    assert found.family == family
    assert found.worth_a_run == (family not in ("sum", "noise"))
    assert str(found).startswith("Verdict: ")
    if family == "sum":
        assert found.cost == "none"
    if family == "weights":  # which names a method first
        assert "times the work of a step" in found.cost
    if family in ("aggregator", "momentum", "optimizer-aware"):
        assert found.cost == "1.67 times the work of a step and 8 B more memory"


def test_it_says_what_the_step_did_and_by_what():
    report = raw_of(*CONFLICT, applied=applied_of([-0.2, 0.3], remembered=0.3))
    text = " | ".join(report.advice)
    assert "The step that was applied raised '0' " not in text  # it has its name
    assert (
        "The step that was applied raised 'a' in 100 % of the steps to first order; the "
        "loss itself rose in 100 % on the same batch, in 100 % on the next. In 100 % of "
        "the steps that raised a loss, that was what the optimizer remembers"
    ) in text
    lines = str(report).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("as applied"))
    assert lines[row + 1].split() == [
        *("a", "-0.20", "100", "%", "100", "%", "100", "%", "100", "%"),
    ]
    fine = raw_of(*CONFLICT, applied=applied_of([0.2, 0.3]))
    assert "applied raised no loss in 100 % of the steps" in " ".join(fine.advice)


def test_conflict_in_the_optimizers_metric():
    response = np.array([[4.0, -1.0], [-3.0, 1.0]])
    found = applied_of([0.1, 0.1], response=response)
    np.testing.assert_allclose(found.cosines[0], [[1, -1], [-1, 1]])
    np.testing.assert_allclose(found.conflict_by_layer, [1.0])


def test_noise_is_taken_out_of_cosines():
    """Gradients of cosine -0.5, and noise as long that the batch shares."""
    rng = np.random.default_rng(3)
    signal = np.array([[1.0, 0], [-0.5, np.sqrt(0.75)]])
    noise = rng.normal(size=(400, 1, 2))
    report = report_of(signal + noise, attainable=np.zeros(400))
    assert report.cosines[:, 0, 1].mean() > 0.0  # by the noise
    estimate, low, high = report.noise_free_cosines
    assert low[0, 1] < -0.5 < high[0, 1] < 0
    np.testing.assert_allclose(np.diagonal(estimate), 1)
    assert np.isnan(report_of(signal[None] + noise[:4]).noise_free_cosines[0]).all()


def test_it_is_plain_and_a_figure():
    found = probe(linear, START, LOSSES, optimizer=optax.adam(RATE))
    plain = json.loads(json.dumps(found.to_plain(), allow_nan=False))
    assert plain["names"] == ["0", "1", "2"]
    assert np.shape(plain["applied"]["response"]) == (STEPS, K, K, 2)
    assert plain["verdict"]["family"] == found.verdict.family
    titles = [axes.get_title() for axes in found.figure().axes]
    assert titles[0] == "Steps that raise the loss"
    assert len(probe(linear, START, LOSSES[:1]).figure().axes) == 3


def test_the_package_has_it_whether_or_not_the_module_is_imported():
    import eagc_jax.probe

    found = eagc_jax.probe(two_bowls, jnp.ones(2), [None])
    assert found.names == ("0", "1")
