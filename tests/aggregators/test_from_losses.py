"""Aggregators on losses: float64 replays of the equations, and what they settle at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators
from eagc_jax.aggregators.chebyshev import chebyshev_weights
from eagc_jax.aggregators.dwa import dwa_weights
from eagc_jax.aggregators.famo import FamoState, famo_update, famo_weights
from eagc_jax.aggregators.gradnorm import gradnorm_step
from eagc_jax.aggregators.smooth_chebyshev import smooth_chebyshev_weights

K, STEPS = 3, 10
# Ten steps of float32 on numbers of order 1: a few dozen roundings.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
PARAMS = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}
PAIR = {"w": np.zeros(2, np.float32)}  # of two objectives, whose gradients are these
UNITS = {"w": np.eye(2, dtype=np.float32)}


def row(*numbers):
    return np.array(numbers, np.float32)


def losses_stream(seed=0, steps=STEPS):
    rng = np.random.default_rng(seed)
    decay = np.exp(-np.outer(np.arange(steps), [0.05, 0.2, 0.0]))
    noise = np.exp(0.1 * rng.normal(size=(steps, K)))
    return (np.array([1.0, 30.0, 0.2]) * decay * noise).astype(np.float32)


def grads_stream(seed=1, steps=STEPS):
    rng = np.random.default_rng(seed)
    size = np.array([1.0, 10.0, 0.3])
    return [
        {
            n: (rng.normal(size=(K, *p.shape)) * size.reshape(K, *[1] * p.ndim)).astype(
                np.float32
            )
            for n, p in PARAMS.items()
        }
        for _ in range(steps)
    ]


def norms_of(grads):
    squares = sum(np.sum(np.float64(g).reshape(K, -1) ** 2, 1) for g in grads.values())
    return np.sqrt(squares)


def run(tx, losses=None, grads=None, extra=None):
    """Weights applied in each step ``(steps, K)``, having checked the updates."""
    losses = losses_stream() if losses is None else losses
    grads = grads_stream() if grads is None else grads
    update, state, found, states = jax.jit(tx.update), tx.init(PARAMS), [], []
    for t, (value, g) in enumerate(zip(losses, grads, strict=True)):
        kwargs = {} if extra is None else extra(t)
        out, state = update(g, state, PARAMS, value=value, **kwargs)
        w = np.float64(state.weights)
        for n in g:
            expected = np.tensordot(w, np.float64(g[n]), 1)
            np.testing.assert_allclose(out[n], expected, rtol=1e-5, atol=1e-5)
        found.append(w)
        states.append(state)
    return np.array(found), states


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


# --- FAMO ---------------------------------------------------------------------------


class Famo:
    """The published order: weights, step, losses after, Adam on xi."""

    def __init__(self, gamma=1e-3, b=0.0):
        self.xi, self.m, self.v, self.t = np.zeros(K), np.zeros(K), np.zeros(K), 0
        self.gamma, self.b = gamma, b

    def weights(self, losses):
        self.z = softmax(self.xi)
        self.D = np.maximum(losses - self.b + 1e-8, 1e-8)
        return self.z / self.D / np.sum(self.z / self.D)

    def after(self, losses):
        delta = np.log(self.D) - np.log(np.maximum(losses - self.b + 1e-8, 1e-8))
        z = softmax(self.xi)
        g = z * delta - z * (z @ delta) + self.gamma * self.xi
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        self.xi = self.xi - 0.025 * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("exact", [True, False])
def test_famo_is_its_equations(exact):
    losses, after = losses_stream(), 0.9 * losses_stream(2)
    previous = np.concatenate([np.full((1, K), np.nan, np.float32), after[:-1]])
    extra = (lambda t: {"value_after": previous[t]}) if exact else None
    found, _ = run(aggregators.famo(K), losses, extra=extra)
    oracle = Famo()
    for t, weights in enumerate(found):
        if t and not exact:  # the new batch's losses stand for the last one's
            oracle.after(np.float64(losses[t]))
        np.testing.assert_allclose(
            weights, oracle.weights(np.float64(losses[t])), **CLOSE
        )
        if exact:
            oracle.after(np.float64(after[t]))
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)


def test_famo_moves_along_the_gradient_of_the_weighted_decrease():
    rng = np.random.default_rng(0)
    logits, delta = rng.normal(size=(2, K)).astype(np.float32)
    grad = jax.jit(jax.grad(lambda xi: jax.nn.softmax(xi) @ delta))(logits)
    zero, on = np.zeros(K, np.float32), np.ones(K, bool)
    state = FamoState(logits, zero, zero, np.zeros(K, np.int32), zero, on, on)
    update = jax.jit(functools.partial(famo_update, decay=0.0, eps=0.0))
    moved = update(state, np.exp(-delta))
    # Adam's first moment is 0.1 times the gradient after one step.
    np.testing.assert_allclose(moved.mu, 0.1 * np.asarray(grad), rtol=1e-4, atol=1e-7)


def test_famo_weights_are_the_gradient_of_the_log_scalarization():
    logits, losses = row(0.3, -0.2, 0.0), row(1.0, 30.0, 0.2)

    def scalarization(x):
        return jax.nn.softmax(logits) @ jnp.log(x)

    grad = np.asarray(jax.jit(jax.grad(scalarization))(losses))
    weights = jax.jit(famo_weights)(logits, np.log(losses))
    np.testing.assert_allclose(weights, grad / grad.sum(), rtol=1e-6)


def test_famo_weights_times_losses_do_not_depend_on_the_losses_scale():
    scale = np.array([1e-6, 1.0, 1e6], np.float32)
    found, _ = run(aggregators.famo(K, eps=0.0))
    other, _ = run(aggregators.famo(K, eps=0.0), scale * losses_stream())
    for left, right in zip(found, other * scale, strict=True):
        np.testing.assert_allclose(right / right.sum(), left, rtol=1e-4)


def test_famo_ignores_losses_that_reach_their_minimum():
    tx = aggregators.famo(2, min_losses=(0.0, 1.0))
    update, state = jax.jit(tx.update), tx.init(PAIR)
    for value in (row(1.0, 1.0), row(0.0, 0.5)):  # at and below it
        out, state = update(UNITS, state, value=value)
        assert np.all(np.isfinite(out["w"]))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


# --- GradNorm -----------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
def test_gradnorm_is_its_equations(relative):
    rate = 0.02 if relative else 0.002
    tx = aggregators.gradnorm(K, learning_rate=rate, relative=relative, alpha=0.7)
    found, _ = run(tx)
    w, first = np.ones(K), np.float64(losses_stream()[0])
    for weights, losses, g in zip(found, losses_stream(), grads_stream(), strict=True):
        np.testing.assert_allclose(weights, w, **CLOSE)
        n = norms_of(g)
        r = losses / first / np.mean(losses / first)
        target = np.mean(w * n) * r**0.7
        w = w - rate * np.sign(w * n - target) * (n / n.mean() if relative else n)
        w = np.maximum(w, 1e-3)
        w = K * w / w.sum()
    np.testing.assert_allclose(found.sum(1), K, rtol=1e-6)


def test_gradnorm_gradient_is_that_of_its_loss():
    # Rates of mean 1; with alpha 1 the third objective's sign would be the other.
    w, n, r = row(1.2, 0.8, 1.0), row(1.0, 0.5, 1.5), row(0.9, 0.7, 1.4)

    def loss(w):
        sizes = w * n
        target = jax.lax.stop_gradient(jnp.mean(sizes) * r**1.5)
        return jnp.sum(jnp.abs(sizes - target))

    step = functools.partial(gradnorm_step, learning_rate=0.01, relative=False)
    moved = jax.jit(step)(w, n, r)
    expected = w - 0.01 * np.asarray(jax.jit(jax.grad(loss))(w))
    np.testing.assert_allclose(moved, 3 * expected / expected.sum(), rtol=1e-6)


def test_gradnorm_settles_where_scaled_norms_are_equal():
    n, rates = row(1.0, 4.0, 0.5), row(0.5, 1.0, 1.5)

    def body(w, t):
        rate = 0.1 / (1 + 0.05 * t)
        return gradnorm_step(w, n, rates, alpha=1.0, learning_rate=rate), None

    w, _ = jax.lax.scan(body, row(1.0, 1.0, 1.0), np.arange(2000, dtype=np.float32))
    balance = np.asarray(w) * n / rates
    # It ends on steps of 0.001 relative to the mean norm, of at most 2 in a weight.
    np.testing.assert_allclose(balance, balance.mean(), rtol=0.02)


@pytest.mark.parametrize("layers", ["a", lambda name: name == "a"])
def test_gradnorm_of_one_layer(layers):
    grads = grads_stream()
    tx = aggregators.gradnorm(K, layers=layers)
    found, _ = run(tx, grads=grads)
    alone, _ = run(tx, grads=[{**g, "b": 0 * g["b"]} for g in grads])
    np.testing.assert_array_equal(found, alone)
    assert not np.allclose(found, run(aggregators.gradnorm(K), grads=grads)[0])


def test_gradnorm_without_such_a_layer():
    tx = aggregators.gradnorm(K, layers="trunk")
    with pytest.raises(ValueError, match="trunk"):
        tx.update(grads_stream()[0], tx.init(PARAMS), value=row(1.0, 1.0, 1.0))


# --- DWA ----------------------------------------------------------------------------


def test_dwa_is_its_equations():
    losses = np.float64(losses_stream(steps=STEPS))
    found, _ = run(aggregators.dwa(K, window=3, temperature=1.5))
    means = losses[:9].reshape(3, 3, K).mean(1)
    for t, weights in enumerate(found):
        window = t // 3
        if window < 2:
            np.testing.assert_allclose(weights, 1.0, rtol=1e-6)
        else:
            rates = means[window - 1] / means[window - 2]
            np.testing.assert_allclose(weights, K * softmax(rates / 1.5), **CLOSE)


def test_dwa_of_an_objective_that_was_absent_keeps_its_ratio():
    tx = aggregators.dwa(2, window=1)
    update, state = jax.jit(tx.update), tx.init(PAIR)
    both, first = np.array([True, True]), np.array([True, False])
    for value in (row(4.0, 4.0), row(2.0, 1.0)):
        _, state = update(UNITS, state, value=value, active_mask=both)
    for _ in range(3):
        _, state = update(UNITS, state, value=row(1.0, np.nan), active_mask=first)
    state = jax.device_get(state)
    assert state.method.last[1] == 1.0
    assert state.method.before[1] == 4.0
    np.testing.assert_array_equal(state.weights, [1.0, 0.0])


def test_dwa_of_zero_losses():
    of = jax.jit(dwa_weights)
    np.testing.assert_allclose(of(row(0.0, 1.0), row(0.0, 1.0)), 1.0)
    weights = of(row(1.0, 1.0), row(1e-30, 1.0))
    np.testing.assert_allclose(weights, [2.0, 0.0], atol=1e-6)


# --- uncertainty weighting and IMTL-L -----------------------------------------------


def test_uncertainty_weighting_is_its_equations():
    tx = aggregators.uncertainty_weighting(K, coefficients=(0.5, 1.0, 0.5))
    found, _ = run(tx)
    s, c = np.zeros(K), np.array([0.5, 1.0, 0.5])
    for weights, losses in zip(found, np.float64(losses_stream()), strict=True):
        np.testing.assert_allclose(weights, c * np.exp(-s), **CLOSE)
        s = s - 0.025 * (0.5 - c * np.exp(-s) * losses)


def test_imtl_l_is_its_equations_and_uncertainty_weighting_turned_round():
    found, _ = run(aggregators.imtl_l(K, learning_rate=0.01))
    s = np.zeros(K)
    for weights, losses in zip(found, np.float64(losses_stream()), strict=True):
        np.testing.assert_allclose(weights, np.exp(s), **CLOSE)
        s = s - 0.01 * (np.exp(s) * losses - 1)
    # IMTL-L(s) = 2 UW(-s): twice the weight, and s moves at twice the rate.
    other, _ = run(aggregators.uncertainty_weighting(K, learning_rate=0.02))
    np.testing.assert_allclose(found, 2 * other, rtol=1e-5)


@pytest.mark.parametrize("name", ["uncertainty_weighting", "imtl_l"])
def test_learned_scales_settle_where_the_gradient_is_zero(name):
    """Every weighted loss is then 1/2, or 1."""
    tx = getattr(aggregators, name)(2, learning_rate=0.1)
    value = row(0.5, 3.0)

    def body(state, _):
        _, state = tx.update(UNITS, state, value=value)
        return state, None

    state, _ = jax.lax.scan(body, tx.init(PAIR), length=500)
    level = 0.5 if name == "uncertainty_weighting" else 1.0
    np.testing.assert_allclose(np.asarray(state.weights) * value, level, rtol=1e-4)


@pytest.mark.parametrize("name", ["uncertainty_weighting", "imtl_l"])
def test_scales_that_start_at_the_loss_ignore_its_unit(name):
    tx = getattr(aggregators, name)(K, initial="loss")
    scale = np.array([2.0**-20, 1.0, 2.0**20], np.float32)
    found, _ = run(tx)
    other, _ = run(tx, scale * losses_stream())
    # s is a sum of logarithms of up to 14: rounded at 1e-6, which the exponential keeps.
    np.testing.assert_allclose(other * scale, found, rtol=1e-5)


def test_imtl_l_in_closed_form():
    found, _ = run(aggregators.imtl_l(K, closed_form=True))
    np.testing.assert_allclose(found, 1 / losses_stream(), rtol=1e-5)


@pytest.mark.parametrize("name", ["uncertainty_weighting", "imtl_l"])
def test_weights_stay_below_their_bound(name):
    tx = getattr(aggregators, name)(K, max_weight=1.5, learning_rate=1.0)
    found, _ = run(tx, 0.01 * losses_stream())
    assert found.max() <= 1.5 * (1 + 1e-6)
    assert found[-1].max() >= 1.5 * (1 - 1e-6)


# --- Chebyshev ----------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_chebyshev_is_its_equations(running):
    u, z = np.array([1.0, 0.5, 4.0]), np.array([0.1, -1.0, 0.0])
    tx = aggregators.chebyshev(
        K, preference=u, ideal="running" if running else z, augmentation=0.05
    )
    found, _ = run(tx)
    u = u / u.mean()
    z = np.full(K, np.inf) if running else z
    for weights, losses in zip(found, np.float64(losses_stream()), strict=True):
        z = np.minimum(z, losses) if running else z
        distances = u * (losses - z)
        worst = distances == distances.max()
        np.testing.assert_allclose(weights, u * worst / worst.sum() + 0.05, **CLOSE)


smooth = jax.jit(smooth_chebyshev_weights, static_argnames="relative")


def test_smooth_chebyshev_is_the_gradient_of_its_scalarization():
    losses = np.random.default_rng(0).uniform(size=K).astype(np.float32)
    u, z, mu = row(1.0, 0.5, 1.5), row(0.1, 0.0, -1.0), np.float32(0.3)

    def scalarization(x):
        return mu * jax.nn.logsumexp(u * (x - z) / mu)

    expected = jax.jit(jax.grad(scalarization))(losses)
    np.testing.assert_allclose(smooth(losses, u, z, mu=mu), expected, rtol=1e-5)


LOSSES, EVEN = row(1.0, 3.0, 2.0), row(1.0, 1.0, 1.0)


def test_smooth_chebyshev_lies_between_the_maximum_and_the_mean():
    hard = smooth(LOSSES, EVEN, mu=1e-30)
    np.testing.assert_array_equal(hard, jax.jit(chebyshev_weights)(LOSSES, EVEN))
    np.testing.assert_allclose(smooth(LOSSES, EVEN, mu=1e6), 1 / K, rtol=1e-5)


def test_relative_smoothing_ignores_the_losses_scale():
    one = smooth(LOSSES, EVEN, mu=0.1, relative=True)
    for scale in (2.0**-60, 2.0**60):
        other = smooth(np.float32(scale) * LOSSES, EVEN, mu=0.1, relative=True)
        np.testing.assert_allclose(one, other, rtol=1e-6)
    zero = smooth(0 * LOSSES, EVEN, mu=0.1, relative=True)
    np.testing.assert_allclose(zero, 1 / K, rtol=1e-6)


def test_chebyshev_reaches_a_concave_front():
    """Losses (t, 1 - t^2) on [0, 1]: a weighted sum only ever finds the ends."""
    tx = optax.chain(aggregators.smooth_chebyshev(2, mu=0.02), optax.sgd(0.02))

    def losses(t):
        return jnp.array([t, 1 - t**2])

    def body(carry, _):
        t, state = carry
        update, state = tx.update(jax.jacrev(losses)(t), state, t, value=losses(t))
        return (optax.apply_updates(t, update), state), None

    start = np.float32(0.9)
    (t, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=400)
    golden = (np.sqrt(5) - 1) / 2  # t = 1 - t^2
    assert abs(float(t) - golden) < 0.02  # mu log 2, over the slopes


# --- all ----------------------------------------------------------------------------

NAMES = (
    "famo",
    "gradnorm",
    "dwa",
    "uncertainty_weighting",
    "imtl_l",
    "chebyshev",
    "smooth_chebyshev",
)


@pytest.fixture(scope="module")
def updates():
    """Compiled once a method and policy."""
    compiled = {}

    def get(name, policy="propagate"):
        if (name, policy) not in compiled:
            tx = getattr(aggregators, name)(K, nonfinite=policy)
            compiled[name, policy] = (tx, jax.jit(tx.update))
        return compiled[name, policy]

    return get


def warm(tx, update, policy_steps=3):
    state = tx.init(PARAMS)
    mask = np.ones(K, bool)
    for g, value in zip(grads_stream(steps=3), losses_stream(steps=3), strict=True):
        _, state = update(g, state, PARAMS, value=value, active_mask=mask)
    return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("policy", ["propagate", "skip_update"])
def test_nonfinite_objectives_touch_no_state(name, where, policy, updates):
    tx, update = updates(name, policy)
    before = warm(tx, update)
    g = {n: x.copy() for n, x in grads_stream()[0].items()}
    value = losses_stream()[0].copy()
    if where == "loss":
        value[1] = np.inf
    else:
        g["b"][1, 0] = np.nan
    mask = np.ones(K, bool)
    out, after = update(g, before, PARAMS, value=value, active_mask=mask)
    fill = np.nan if policy == "propagate" else 0.0
    for n, p in PARAMS.items():
        np.testing.assert_array_equal(out[n], np.full(p.shape, fill))
    assert after.nonfinite_count.tolist() == [0, 1, 0]
    after = after._replace(nonfinite_count=before.nonfinite_count)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_objective_is_as_an_absent_one(name, updates):
    tx, update = updates(name, "skip_objective")
    before = warm(tx, update)
    g = {n: x.copy() for n, x in grads_stream()[0].items()}
    value = losses_stream()[0].copy()
    value[1] = np.nan
    g["b"][1, 0] = np.nan
    everyone, others = np.ones(K, bool), np.array([True, False, True])
    out, after = update(g, before, PARAMS, value=value, active_mask=everyone)
    absent, masked = update(g, before, PARAMS, value=value, active_mask=others)
    for n in PARAMS:
        assert np.all(np.isfinite(out[n]))
        np.testing.assert_array_equal(out[n], absent[n])
    assert float(after.weights[1]) == 0.0
    assert after.nonfinite_count.tolist() == [0, 1, 0]
    assert masked.nonfinite_count.tolist() == [0, 0, 0]
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after.method) if x.size)
    nobody = np.zeros(K, bool)
    out, same = update(g, before, PARAMS, value=value, active_mask=nobody)
    for n, p in PARAMS.items():
        np.testing.assert_array_equal(out[n], np.zeros(p.shape))
    jax.tree.map(np.testing.assert_array_equal, before, same)


@pytest.mark.parametrize("name", NAMES)
def test_one_objective_identical_and_zero_ones(name):
    g = row(3.0, 4.0)
    tx = getattr(aggregators, name)(1)
    out, _ = jax.jit(tx.update)({"w": g[None]}, tx.init(PAIR), value=1.0)
    half = 0.5 if name == "uncertainty_weighting" else 1.0
    np.testing.assert_allclose(out["w"], half * g, rtol=1e-6)
    tx = getattr(aggregators, name)(2)
    update, state = jax.jit(tx.update), tx.init(PAIR)
    _, state = update({"w": np.stack([g, g])}, state, value=row(1.0, 1.0))
    np.testing.assert_allclose(*np.asarray(state.weights), rtol=1e-6)
    out, state = update({"w": np.stack([0 * g, 0 * g])}, state, value=row(0.0, 0.0))
    np.testing.assert_array_equal(out["w"], [0.0, 0.0])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", NAMES)
def test_permuting_objectives_permutes_weights(name, updates):
    tx, update = updates(name)
    order = np.array([2, 0, 1])
    state, other = tx.init(PARAMS), tx.init(PARAMS)
    mask = np.ones(K, bool)
    for g, value in zip(grads_stream(), losses_stream(), strict=True):
        shuffled = {n: x[order] for n, x in g.items()}
        _, state = update(g, state, PARAMS, value=value, active_mask=mask)
        _, other = update(shuffled, other, PARAMS, value=value[order], active_mask=mask)
    weights = np.asarray(state.weights)
    np.testing.assert_allclose(other.weights, weights[order], rtol=1e-5)


def test_losses_come_in_any_form_or_not_at_all():
    tx = aggregators.imtl_l(2, closed_form=True)
    state = tx.init(PAIR)
    for value in (row(2.0, 4.0), [2.0, 4.0], (2, 4), {"a": 2.0, "b": 4.0}):
        found, _ = tx.update(UNITS, state, value=value)  # not compiled as a whole
        np.testing.assert_allclose(found["w"], [0.5, 0.25])
    with pytest.raises(ValueError, match=r"imtl_l needs the losses: .*value=losses"):
        tx.update(UNITS, state, PAIR)
    with pytest.raises(ValueError, match="one loss for each of the 2 objectives"):
        tx.update(UNITS, state, PAIR, value=np.float32(1.0))
    with pytest.raises(ValueError, match="active_mask"):
        tx.update(UNITS, state, value=row(1.0, 1.0), active_mask=np.ones(3))


def test_bfloat16_leaves_keep_their_dtype():
    tx = aggregators.famo(2)
    params = {"w": np.zeros(2, jnp.bfloat16), "none": None}
    g = {"w": np.array([[1, 2], [3, 4]], jnp.bfloat16), "none": None}
    out, state = jax.jit(tx.update)(g, tx.init(params), params, value=row(1.0, 1.0))
    assert out["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(out["w"]), [2, 3])
    assert state.weights.dtype == jnp.float32
    assert tx.update({}, tx.init({}), value=row(1.0, 1.0))[0] == {}


def test_scan_and_vmap():
    tx = aggregators.gradnorm(K)

    def train(losses, grads):
        def body(state, now):
            out, state = tx.update(now[1], state, value=now[0])
            return state, (state.weights, out)

        return jax.lax.scan(body, tx.init(PARAMS), (losses, grads))[1]

    def of(seed):
        grads = grads_stream(seed, 4)
        return losses_stream(seed, 4), {
            n: np.stack([g[n] for g in grads]) for n in PARAMS
        }

    both = jax.tree.map(lambda *x: np.stack(x), of(3), of(4))
    weights, _ = jax.jit(jax.vmap(train))(*both)
    for i, seed in enumerate((3, 4)):
        found, _ = run(tx, losses_stream(seed, 4), grads_stream(seed, 4))
        np.testing.assert_allclose(weights[i], found, rtol=1e-5)


def test_preference_and_length():
    famo, dwa, imtl_l = aggregators.famo, aggregators.dwa, aggregators.imtl_l
    whole = {"rescale": "norm_of_mean", "preference": (3, 1)}
    every = {
        "famo": famo(2),
        "famo, preferred": famo(2, preference=(3, 1)),
        "famo, sum": famo(2, rescale="sum"),
        "famo, mean": famo(2, rescale="mean"),
        "dwa": dwa(2),
        "dwa, mean": dwa(2, rescale="mean"),
        "imtl_l, sum": imtl_l(2, rescale="sum"),
        **{f"{make.__name__}, whole": make(2, **whole) for make in (famo, dwa, imtl_l)},
    }

    @jax.jit
    def update(value):
        first = {
            n: tx.update(UNITS, tx.init(PAIR), value=value) for n, tx in every.items()
        }
        return {n: out["w"] for n, (out, _) in first.items()}

    out = jax.device_get(update(row(1.0, 4.0)))
    plain = out["famo"]
    np.testing.assert_allclose(out["famo, preferred"], plain * [1.5, 0.5])
    np.testing.assert_allclose(out["famo, sum"], 2 * plain)
    np.testing.assert_allclose(out["famo, mean"], plain)
    np.testing.assert_allclose(out["dwa"], [1, 1])
    np.testing.assert_allclose(out["dwa, mean"], [0.5, 0.5])
    for name in ("famo", "dwa", "imtl_l"):
        expected = np.linalg.norm([0.75, 0.25])
        found = np.linalg.norm(out[f"{name}, whole"])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = np.linalg.norm(out["imtl_l, sum"])
    np.testing.assert_allclose(found, np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("famo", {"learning_rate": -1}, "learning_rate"),
        ("famo", {"b1": 1.0}, "b1"),
        ("famo", {"min_losses": (1.0, 2.0)}, "min_losses"),
        ("famo", {"nonfinite": "drop"}, "nonfinite"),
        ("famo", {"rescale": "unit"}, "rescale"),
        ("famo", {"preference": (1, -1, 1)}, "preference"),
        ("famo", {"preference": 1.0}, "preference"),
        ("gradnorm", {"alpha": -1}, "alpha"),
        ("gradnorm", {"layers": 3}, "layers"),
        ("dwa", {"window": 0}, "window"),
        ("dwa", {"temperature": 0.0}, "temperature"),
        ("uncertainty_weighting", {"coefficients": 0.0}, "coefficients"),
        ("uncertainty_weighting", {"initial": "zero"}, "initial"),
        ("imtl_l", {"max_weight": 0.0}, "max_weight"),
        ("chebyshev", {"ideal": "zero"}, "ideal"),
        ("chebyshev", {"augmentation": -1}, "augmentation"),
        ("smooth_chebyshev", {"mu": 0.0}, "mu"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(aggregators, name)(K, **options)
