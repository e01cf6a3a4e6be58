"""Single-gradient scalings against float64 replays of their equations, and their laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eagc_jax
from eagc_jax import scaling

SHAPES = {"bias": (3,), "conv": (2, 2, 2, 3), "kernel": (4, 3), "scalar": ()}
STEPS = 10
# Ten steps of float32 arithmetic on entries of order 1: a few dozen roundings.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def stream(seed=0, steps=STEPS, scale=1.0):
    rng = np.random.default_rng(seed)
    steady = {n: rng.normal(size=s) for n, s in SHAPES.items()}
    return [
        {
            n: (scale * (steady[n] + rng.normal(size=s))).astype(np.float32)
            for n, s in SHAPES.items()
        }
        for _ in range(steps)
    ]


def parameters(seed=1):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


@functools.lru_cache
def compiled(tx):
    return jax.jit(tx.init), jax.jit(tx.update)


def run(tx, grads):
    params, (init, update) = parameters(), compiled(tx)
    state, outs, states = init(params), [], []
    for g in grads:
        out, state = update(g, state, params)
        outs.append(jax.device_get(out))
        states.append(jax.device_get(state))
    return outs, states


def one_step(tx, grads, params):
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)


def wide(tree):
    return {n: np.asarray(x, np.float64) for n, x in tree.items()}


class Adam:
    """Bias-corrected moments in float64."""

    def __init__(self, b1=0.9, b2=0.999):
        self.b1, self.b2, self.t = b1, b2, 0
        self.m = {n: np.zeros(s) for n, s in SHAPES.items()}
        self.v = {n: np.zeros(s) for n, s in SHAPES.items()}

    def step(self, g):
        self.t += 1
        m, v = {}, {}
        for n in g:
            self.m[n] = self.b1 * self.m[n] + (1 - self.b1) * g[n]
            self.v[n] = self.b2 * self.v[n] + (1 - self.b2) * g[n] ** 2
            m[n] = self.m[n] / (1 - self.b1**self.t)
            v[n] = self.v[n] / (1 - self.b2**self.t)
        return m, v


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- diffGrad -----------------------------------------------------------------------

ADAM, DIFFGRAD = optax.scale_by_adam(), scaling.scale_by_diffgrad()
AWARE = scaling.scale_by_diffgrad(eps=0.0, scale_aware=True)


@pytest.mark.parametrize("aware", [False, True])
def test_diffgrad_is_its_equations(aware):
    eps = 0.0 if aware else 1e-8
    outs, _ = run(AWARE if aware else DIFFGRAD, stream())
    adam, last = Adam(), {n: np.zeros(s) for n, s in SHAPES.items()}
    for g, out in zip(map(wide, stream()), outs, strict=True):
        m, v = adam.step(g)
        for n in g:
            size = np.sqrt(v[n]) + eps
            change = np.abs(last[n] - g[n]) / (size if aware else 1.0)
            np.testing.assert_allclose(out[n], sigmoid(change) * m[n] / size, **CLOSE)
        last = g


def test_diffgrad_friction_is_between_half_and_one():
    plain, _ = run(ADAM, stream())
    outs, _ = run(DIFFGRAD, stream())
    for out, reference in zip(outs, plain, strict=True):
        for n in out:
            friction = out[n] / reference[n]
            assert np.all((friction >= 0.5 - 1e-5) & (friction < 1 + 1e-5))
    # Unlike with the aliased buffer, it isn't 1/2 everywhere.
    assert np.max(np.abs(outs[-1]["kernel"] / plain[-1]["kernel"])) > 0.6


def test_a_gradient_that_stays_moves_at_half_of_adams_speed():
    tx = DIFFGRAD
    outs, _ = run(tx, [stream()[0]] * 3)
    plain, _ = run(ADAM, [stream()[0]] * 3)
    for n in SHAPES:
        np.testing.assert_allclose(outs[-1][n], 0.5 * plain[-1][n], rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_scale_aware_diffgrad_is_the_same_at_every_scale(scale):
    outs, _ = run(AWARE, stream())
    other, _ = run(AWARE, stream(scale=scale))
    for left, right in zip(outs, other, strict=True):
        for n in left:  # powers of two scale without rounding
            np.testing.assert_allclose(left[n], right[n], rtol=1e-6)


def test_diffgrad_with_a_learning_rate_descends():
    tx = scaling.diffgrad(0.1)

    def body(_, carry):
        params, state = carry
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params = {"x": np.float32([1, -2])}
    train = jax.jit(lambda p: jax.lax.fori_loop(0, 40, body, (p, tx.init(p)))[0])
    assert np.max(np.abs(train(params)["x"])) < 0.7


# --- AdamP --------------------------------------------------------------------------

DELTA = 0.1
ADAMP = scaling.scale_by_adamp(delta=DELTA, weight_decay=0.01)
NESTEROV = scaling.scale_by_adamp(delta=3.0, nesterov=True)


def rows(leaf):
    """(channels, entries) with the output channel, the last axis, first."""
    return np.moveaxis(leaf, -1, 0).reshape(leaf.shape[-1], -1)


def unrows(matrix, shape):
    return np.moveaxis(matrix.reshape(shape[-1], *shape[:-1]), 0, -1)


def adamp_step(p, g, w, delta):
    """Returns the projected direction, and 1 (channel), 2 (layer) or 0."""
    if w.ndim < 2:
        return p, 0
    for kind, view, back in (
        (1, rows, lambda x: unrows(x, w.shape)),
        (2, lambda x: x.reshape(1, -1), lambda x: x.reshape(w.shape)),
    ):
        G, W, P = view(g), view(w), view(p)
        norms = np.linalg.norm(G, axis=1) * np.linalg.norm(W, axis=1)
        cosine = np.abs(np.sum(G * W, axis=1)) / norms
        if cosine.max() < delta / math.sqrt(W.shape[1]):
            unit = W / np.linalg.norm(W, axis=1, keepdims=True)
            return back(P - unit * np.sum(unit * P, axis=1, keepdims=True)), kind
    return p, 0


def orthogonal_stream():
    """Steps 0-3: rows of kernel orthogonal to the weight; 4-7: only the whole conv."""
    params, grads = wide(parameters()), []
    for t, g in enumerate(map(wide, stream())):
        if t < 4:
            W, G = rows(params["kernel"]), rows(g["kernel"])
            share = np.sum(W * G, 1, keepdims=True) / np.sum(W * W, 1, keepdims=True)
            g["kernel"] = unrows(G - share * W, g["kernel"].shape)
        elif t < 8:
            W, G = params["conv"], g["conv"]
            g["conv"] = G - np.sum(W * G) / np.sum(W * W) * W
        grads.append({n: x.astype(np.float32) for n, x in g.items()})
    return grads


def test_adamp_is_its_equations():
    outs, states = run(ADAMP, orthogonal_stream())
    adam, params, seen = Adam(), wide(parameters()), set()
    for g, out, state in zip(map(wide, orthogonal_stream()), outs, states, strict=True):
        m, v = adam.step(g)
        for n in g:
            p = m[n] / (np.sqrt(v[n]) + 1e-8)
            p, kind = adamp_step(p, g[n], params[n], DELTA)
            decay = 0.01 * (0.1 if kind else 1.0)
            np.testing.assert_allclose(out[n], p + decay * params[n], **CLOSE)
            assert int(state.projected[n]) == kind
            seen.add((n, kind))
    assert {("kernel", 1), ("kernel", 0), ("conv", 2), ("bias", 0)} <= seen


def test_adamp_with_nesterov_projects_orthogonally():
    outs, _ = run(NESTEROV, stream())  # sqrt(8) < 3: every matrix, every step
    adam, params = Adam(), wide(parameters())
    for g, out in zip(map(wide, stream()), outs, strict=True):
        adam.step(g)
        for n in g:
            m = (0.9 * adam.m[n] + 0.1 * g[n]) / (1 - 0.9**adam.t)
            v = adam.v[n] / (1 - 0.999**adam.t)
            p, _ = adamp_step(m / (np.sqrt(v) + 1e-8), g[n], params[n], 3.0)
            np.testing.assert_allclose(out[n], p, **CLOSE)
        for n in ("kernel", "conv"):
            W = rows(params[n])
            radial = np.sum(rows(out[n]) * W, axis=1) / np.linalg.norm(W, axis=1)
            assert np.max(np.abs(radial)) < 1e-5  # rounding of entries of order 1


def test_adamp_takes_the_output_axis_from_a_function():
    tx = scaling.scale_by_adamp(
        delta=2.0, channels=lambda path, shape: tuple(range(1, len(shape)))
    )
    params = {"w": np.arange(1, 7, dtype=np.float32).reshape(2, 3)}
    g = {"w": np.eye(2, 3, dtype=np.float32) + np.float32(0.5)}
    step = one_step(tx, g, params)[0]["w"]
    np.testing.assert_allclose(np.sum(step * params["w"], axis=1), 0.0, atol=1e-5)


def test_adamp_without_projection_is_adamw():
    tx = scaling.adamp(0.1, weight_decay=0.01, delta=0.0)
    found, _ = run(tx, stream())
    expected, _ = run(optax.adamw(0.1, weight_decay=0.01), stream())
    for left, right in zip(found, expected, strict=True):
        for n in left:
            np.testing.assert_allclose(left[n], right[n], **CLOSE)


def test_adamp_needs_params():
    tx = scaling.scale_by_adamp()
    params = {"w": np.ones((2, 2), np.float32)}
    with pytest.raises(ValueError, match="update\\(updates, state, params\\)"):
        tx.update(params, tx.init(params))


# --- stability ----------------------------------------------------------------------

LOW, HIGH, BETA = 0.25, 3.0, 0.8


@functools.lru_cache
def stability(granularity="tensor", rho=0.0):
    return scaling.scale_by_stability(
        LOW, HIGH, smoothing=BETA, reference_decay=rho, granularity=granularity
    )


def blocks_of(name, shape, granularity):
    """Index sets of the blocks of one leaf, as flat boolean masks."""
    if granularity in ("tensor", "global") or len(shape) <= 1:
        return [np.ones(shape, bool)]
    if granularity == "element":
        units = np.arange(math.prod(shape)).reshape(shape)
    else:
        units = np.broadcast_to(np.arange(shape[-1]), shape)
    return [units == u for u in np.unique(units)]


class Stability:
    def __init__(self, granularity, rho):
        self.rho, self.memory = rho, {}
        self.reference = {n: np.zeros(s) for n, s in SHAPES.items()}
        self.blocks = {
            n: blocks_of(n, s, granularity)
            if granularity != "element" or s != (3,)
            else [np.arange(3) == i for i in range(3)]
            for n, s in SHAPES.items()
        }
        self.joint = granularity == "global"

    def step(self, g):
        factors = {n: np.ones(s) for n, s in SHAPES.items()}
        places = [(n, i) for n in g for i in range(len(self.blocks[n]))]
        for group in [places] if self.joint else [[place] for place in places]:
            a = np.concatenate([g[n][self.blocks[n][i]] for n, i in group])
            b = np.concatenate([self.reference[n][self.blocks[n][i]] for n, i in group])
            if not (a.any() and b.any()):
                continue
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            s, t = self.memory.get(group[0], (0.0, 0))
            s, t = BETA * s + (1 - BETA) * cosine, t + 1
            self.memory[group[0]] = s, t
            s = s / (1 - BETA**t)
            for n, i in group:
                factors[n][self.blocks[n][i]] = HIGH**s if s > 0 else LOW**-s
        for n in g:
            self.reference[n] = self.rho * self.reference[n] + (1 - self.rho) * g[n]
        return factors


@pytest.mark.parametrize(
    ("granularity", "rho"),
    [("tensor", 0.0), ("global", 0.5), ("channel", 0.5), ("element", 0.0)],
)
def test_stability_is_its_equations(granularity, rho):
    grads = stream()
    for t in (3, 4):  # a block without a gradient keeps what it remembers
        grads[t]["bias"] = np.zeros(3, np.float32)
    outs, states = run(stability(granularity, rho), grads)
    oracle = Stability(granularity, rho)
    for g, out in zip(map(wide, grads), outs, strict=True):
        factors = oracle.step(g)
        for n in g:
            np.testing.assert_allclose(out[n], factors[n] * g[n], **CLOSE)
    if granularity == "tensor":
        for n in SHAPES:
            shown = np.ravel(states[-1].factors[n])
            np.testing.assert_allclose(shown, np.unique(factors[n]), **CLOSE)


def test_stability_factors_stay_within_their_bounds_and_reach_them():
    g = stream()[0]
    steady, _ = run(stability(), [g] * 3)
    flipping, _ = run(stability(), [g, {n: -x for n, x in g.items()}] * 2)
    for n in SHAPES:
        np.testing.assert_allclose(steady[-1][n], HIGH * g[n], rtol=1e-6)
        np.testing.assert_allclose(flipping[-1][n], -LOW * g[n], rtol=1e-6)
    _, states = run(stability(), stream(3))
    for state in states:
        assert np.all((state.factors.flat >= LOW) & (state.factors.flat <= HIGH))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_stability_is_the_same_at_every_scale(scale):
    _, states = run(stability(), stream())
    _, other = run(stability(), stream(scale=scale))
    left, right = states[-1].factors.flat, other[-1].factors.flat
    np.testing.assert_allclose(left, right, rtol=1e-5)


# --- all ----------------------------------------------------------------------------

ALL = {
    "diffgrad": lambda **kw: scaling.scale_by_diffgrad(**kw),
    "adamp": lambda **kw: scaling.scale_by_adamp(**kw),
    "stability": lambda **kw: scaling.scale_by_stability(**kw),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("policy", ["propagate", "skip_update"])
def test_nonfinite_gradients_touch_nothing(name, policy):
    tx = ALL[name](nonfinite=policy)
    init, update = compiled(tx)
    g, params = stream()[0], parameters()
    _, before = update(g, init(params), params)
    for count, bad in enumerate([np.nan, np.inf], start=1):
        spoiled = {n: x.copy() for n, x in g.items()}
        spoiled["conv"][0, 0, 0, 0] = bad
        out, after = update(spoiled, before, params)
        for n in SHAPES:
            expected = np.nan if policy == "propagate" else 0.0
            np.testing.assert_array_equal(out[n], np.full(SHAPES[n], expected))
        assert int(after.nonfinite_count) == count
        before = before._replace(nonfinite_count=after.nonfinite_count)
        jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("name", ALL)
def test_dtypes_scan_and_vmap(name):
    tx = ALL[name]()
    rng = np.random.default_rng(0)
    params = {"w": np.ones((3, 2), jnp.bfloat16), "none": None, "b": np.float32([1, 1])}
    grads = jax.tree.map(
        lambda p: rng.normal(size=(4, 2, *p.shape)).astype(p.dtype), params
    )

    def train(grads):
        def body(state, g):
            step, state = tx.update(g, state, params)
            return state, step

        return jax.lax.scan(body, tx.init(params), grads)

    state, steps = jax.jit(jax.vmap(train, in_axes=1))(grads)
    assert steps["w"].dtype == jnp.bfloat16
    assert steps["b"].dtype == jnp.float32
    steps = jax.device_get(steps)
    floats = [
        x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    assert all(x.dtype == jnp.float32 for x in floats)
    one, _ = train_loop(tx, jax.tree.map(lambda g: g[:, 1], grads), params)
    # One rounding to bfloat16, of values that agree to float32's.
    np.testing.assert_allclose(
        np.asarray(steps["w"][1], np.float32),
        np.asarray(one["w"], np.float32),
        rtol=0.01,
    )
    np.testing.assert_allclose(steps["b"][1], one["b"], rtol=1e-5, atol=1e-6)


def train_loop(tx, grads, params):
    (init, update), outs = compiled(tx), []
    state = init(params)
    for t in range(4):
        now = jax.tree.map(lambda g, t=t: g[t], grads)
        out, state = update(now, state, params)
        outs.append(out)
    return jax.tree.map(lambda *x: np.stack(x), *outs), state


@pytest.mark.parametrize("name", ALL)
def test_zero_gradients_and_empty_trees(name):
    tx = ALL[name]()
    params = {"w": np.ones((3, 2), np.float32)}
    out, state = one_step(tx, jax.tree.map(np.zeros_like, params), params)
    np.testing.assert_array_equal(out["w"], np.zeros((3, 2)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    assert tx.update({}, tx.init({}), {})[0] == {}
    optax.tree.map_params(tx, lambda x: x, state)  # sharding rules need it


@pytest.mark.parametrize("name", ALL)
def test_leaves_that_are_not_a_single_gradient_are_refused(name):
    tx = ALL[name]()
    params = {"w": np.ones((3, 2), np.float32)}
    state = tx.init(params)
    with pytest.raises(ValueError, match="sum_objectives"):
        tx.update({"w": np.ones((2, 3, 2), np.float32)}, state, params)
    with pytest.raises(ValueError, match="int32"):
        tx.update({"w": np.ones((3, 2), np.int32)}, state, params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scaling.scale_by_diffgrad(b1=1.0), "b1"),
        (lambda: scaling.diffgrad(0.1, b2=-0.1), "b2"),
        (lambda: scaling.scale_by_diffgrad(eps=-1.0), "eps"),
        (lambda: scaling.scale_by_diffgrad(nonfinite="skip_objective"), "nonfinite"),
        (lambda: scaling.scale_by_adamp(delta=-1.0), "delta"),
        (lambda: scaling.adamp(0.1, channels="tensor"), "channels"),
        (lambda: scaling.scale_by_stability(0.0), "min_factor"),
        (lambda: scaling.scale_by_stability(1.0, 0.5), "max_factor"),
        (lambda: scaling.scale_by_stability(smoothing=1.0), "smoothing"),
        (lambda: scaling.scale_by_stability(granularity="layer"), "granularity"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_behind_an_aggregator():
    tx = optax.chain(
        eagc_jax.sum_objectives(), scaling.scale_by_stability(), scaling.diffgrad(0.1)
    )
    params = {"w": np.ones((3, 2), np.float32)}
    out, _ = one_step(tx, {"w": np.ones((2, 3, 2), np.float32)}, params)
    assert out["w"].shape == (3, 2)
