"""The transformation: its equations in float64, and what it guarantees of the step."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators, optimizer_aware
from eagc_jax._trees import named_leaves
from eagc_jax.aggregators._base import length
from eagc_jax.gram import split_gram
from eagc_jax.optimizers.certificate import certified, no_certificate
from eagc_jax.optimizers.probe import expect, probe
from tests.optimizers.problems import (
    EPS,
    NOT_LINEAR,
    OPTIMIZERS,
    K,
    cosines,
    flat,
    gradients,
    non_negative,
    rows,
    tree,
    upgrad,
)

PARAMS = tree(0)
# What a step is made of differs by kind, not by name; the others are slow.
QUICK = {("adamw", False), ("adamw", True), ("lion", False), ("muon", False)}
EVERY = OPTIMIZERS | NOT_LINEAR
CERTIFIED = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(EVERY, (False, True))
    if case != ("lion", True)
]


@functools.cache
def warm(optimizer, steps=5, seed=50):
    """A state whose second moments hardly move in a step."""
    state, update = optimizer.init(PARAMS), jax.jit(optimizer.update)
    for step in range(steps):
        _, state = update(tree(seed + step), state, PARAMS)
    return state


@functools.cache
def of(optimizer, base="upgrad", number=K, **options):
    """A jitted transformation: one compilation for many tests."""
    own = EVERY[optimizer]()
    tx = optimizer_aware(getattr(aggregators, base)(number), own, **options)
    return own, tx, jax.jit(tx.update)


# ---------------------------------------------------------------------------
# Equations
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("include_momentum", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_adam_by_its_equations(include_momentum, seed):
    """w0 of H = J P J', then the least added weights; then Adam's own step."""
    lr, b1, b2, eps, root = 0.1, 0.8, 0.95, 1e-3, 1e-5
    own, tx, update = of("adam", include_momentum=include_momentum)
    state = tx.init(PARAMS)._replace(optimizer=warm(own))
    updates = gradients(seed, ratio=30.0)
    step, new = update(updates, state, PARAMS)
    g, count = rows(updates), 6
    m, v = (flat(optax.tree.get(state.optimizer, name)) for name in ("mu", "nu"))
    expected = g.mean(axis=0)
    v = (b2 * v + (1 - b2) * expected**2) / (1 - b2**count)
    p = 1 / (np.sqrt(v + root) + eps)
    matrix = (g * p) @ g.T
    weights = upgrad(matrix)
    if include_momentum:
        c = (g * p) @ m
        weights = weights + non_negative(
            matrix, -(matrix @ weights + b1 / (1 - b1) * c)
        )
    lengths = np.sqrt(np.diagonal(matrix))
    found = np.asarray(new.aggregator.weights, np.float64) * lengths
    np.testing.assert_allclose(found, weights * lengths, atol=1e-4 * max(found))
    # The optimizer is given their sum: its step is its own.
    d = jax.tree.map(lambda x: np.tensordot(new.aggregator.weights, x, 1), updates)
    aim, _ = jax.jit(own.update)(d, state.optimizer, PARAMS)
    np.testing.assert_allclose(flat(step), flat(aim), rtol=1e-4, atol=1e-5 * lr)


@pytest.mark.parametrize(
    "base", ["upgrad", pytest.param("conflict_free", marks=pytest.mark.slow)]
)
def test_with_sgd_it_is_the_plain_aggregator(base):
    own = optax.sgd(0.25)
    aggregator = getattr(aggregators, base)(K)
    plain = optax.chain(aggregator, own)
    aware = optimizer_aware(aggregator, own)
    updates = gradients(3, ratio=100.0)
    aim, _ = jax.jit(plain.update)(updates, plain.init(PARAMS), PARAMS)
    found, _ = jax.jit(aware.update)(updates, aware.init(PARAMS), PARAMS)
    aim = flat(aim)
    # The metric is 1/4: every product in it is exact.
    np.testing.assert_allclose(flat(found), aim, atol=8 * EPS * np.max(np.abs(aim)))


# ---------------------------------------------------------------------------
# Guarantees
# ---------------------------------------------------------------------------


@functools.cache
def gains_of(own, include_momentum=True):
    """Of the first step, which expects equal weights."""

    def run(state, updates):
        expected = expect(updates, jnp.zeros(K), jnp.ones((K,), bool))
        return probe(own.update, state, PARAMS, expected, include_momentum)

    return jax.jit(run)


def slopes_in_metric(own, state, updates, weights):
    """``cos(g_k, r + d)`` in P, float64; r the rest of the step, d = J' w."""
    gains = gains_of(own)(state, updates)
    p = flat({n: gain.factor for n, gain in gains.items()})
    weighed = flat({n: gain.rest for n, gain in gains.items()})
    g, p = rows({n: named_leaves(updates)[n] for n in gains}), np.abs(p)
    r = np.divide(weighed, p, out=np.zeros_like(weighed), where=p != 0)
    w = np.asarray(weights, np.float64)
    norms = np.sqrt((g * p * g).sum(axis=1))

    def cosines_with(d):
        return (g * p) @ d / norms / np.sqrt(d @ (p * d))

    return cosines_with(w @ g), cosines_with(r + w @ g)


def slopes_of_step(own, state, updates, step):
    """Cosines in P of ``g_k`` and the gradient of which this is the step, float64.

    Rounding is promised in the metric: where P spans seven decades, a small entry of a
    gradient may be all that is left of it there. Without a learning rate, as in
    ``scale_by_adam``, a step goes along its gradient and is turned round later.
    """
    gains = gains_of(own)(state, updates)
    p = flat({n: gain.factor for n, gain in gains.items()})
    g = rows({n: named_leaves(updates)[n] for n in gains})
    u = flat({n: named_leaves(step)[n] for n in gains})
    r = np.divide(u, p, out=np.zeros_like(u), where=p != 0)
    norms = np.sqrt((g * np.abs(p) * g).sum(axis=1))
    return (g * np.abs(p)) @ r / norms / np.sqrt(r @ (np.abs(p) * r))


CASES = st.tuples(
    st.integers(0, 10**6), st.sampled_from([1.0, 1e2, 1e4]), st.booleans()
)


def drawn(seed, ratio, opposed):
    """Gradients with norms in these ratios; the first two nearly opposed, or not."""
    updates = gradients(seed, ratio=ratio)
    if not opposed:
        return updates
    for g in jax.tree.leaves(updates):
        g[0] = 0.1 * g[0] - g[1] / ratio
    return updates


@hypothesis.settings(max_examples=12)
@hypothesis.given(case=CASES)
def test_no_objective_rises_along_the_preconditioned_gradient(case):
    own, tx, update = of("adamw")
    updates = drawn(*case)
    state = tx.init(PARAMS)._replace(optimizer=warm(own))
    _, new = update(updates, state, PARAMS)
    found, _ = slopes_in_metric(own, state.optimizer, updates, new.aggregator.weights)
    # Sums of 43 products; nearly opposed gradients lose a digit of each.
    assert np.min(found) > -1e-5


@hypothesis.settings(max_examples=12)
@hypothesis.given(case=CASES)
def test_no_objective_rises_along_the_whole_step(case):
    own, tx, update = of("adamw", include_momentum=True)
    updates = drawn(*case)
    state = tx.init(PARAMS)._replace(optimizer=warm(own))
    _, new = update(updates, state, PARAMS)
    if int(new.aggregator.fallbacks):
        return  # capped: nothing is promised
    _, found = slopes_in_metric(own, state.optimizer, updates, new.aggregator.weights)
    assert np.min(found) > -1e-5


def cosines_of_step(own, state, updates, step):
    """The same where P isn't a factor of each entry, as a certificate measures it."""
    gains = gains_of(own, False)(state, updates)
    active, nothing = jnp.ones(K, bool), no_certificate(K)
    return certified(step, updates, gains, active, nothing, ())[1].cosines


@pytest.mark.parametrize(("name", "include_momentum"), CERTIFIED)
def test_no_objective_rises_under_the_certified_update(name, include_momentum):
    """The one that is applied, from the first step on: momentum, decay, sign and all."""
    own, tx, update = of(name, certify=True, include_momentum=include_momentum)
    state, uncorrected = tx.init(PARAMS), 0
    for seed in range(6):
        updates = drawn(seed, 1e4 if seed % 2 else 1e2, seed % 3 == 0)
        before = state.optimizer
        step, state = update(updates, state, PARAMS)
        if name in NOT_LINEAR:
            assert np.min(cosines_of_step(own, before, updates, step)) > -1e-5
            # Without the metric, Muon's cosines are up to ten times those in it.
            most = 1e-5 if name == "lion" else 1e-4
            assert np.max(cosines(updates, step)) < most
        else:
            assert np.min(slopes_of_step(own, before, updates, step)) > -1e-5
        uncorrected += int(np.min(state.certificate.cosines) >= -1e-6)
    assert int(state.certificate.corrections) + uncorrected == 6
    assert np.linalg.norm(flat(step)) > 0


@pytest.mark.parametrize(
    "aggregator",
    [
        aggregators.upgrad(K, granularity="tensor"),
        aggregators.upgrad(K, recompute_every=3),
        aggregators.mean(K),
    ],
    ids=["by tensor", "repeated weights", "without a matrix"],
)
def test_a_certificate_whatever_matrix_the_aggregator_made(aggregator):
    tx = optimizer_aware(aggregator, EVERY["adamw"](), certify=True)
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    for seed in range(4):
        updates = drawn(seed, 1e3, seed % 2 == 0)
        step, state = update(updates, state, PARAMS)
        assert np.max(cosines(updates, step)) < 1e-5
    assert int(state.certificate.corrections) > 0


def test_the_certificate_says_what_the_optimizer_would_have_done():
    own, tx, update = of("adamw", certify=True)
    _, plain, update_plain = of("adamw")
    state = tx.init(PARAMS)._replace(optimizer=warm(own))
    without = plain.init(PARAMS)._replace(optimizer=state.optimizer)
    seen = 0
    for seed in range(4):
        updates = gradients(seed, ratio=10.0)
        step, new = update(updates, state, PARAMS)
        aim, _ = update_plain(updates, without, PARAMS)
        rises = cosines(updates, aim) > 0
        np.testing.assert_array_equal(np.asarray(new.certificate.cosines) < 0, rises)
        if not rises.any():
            np.testing.assert_array_equal(flat(step), flat(aim))
        seen += rises.any()
    assert seen > 0


def test_momentum_makes_a_difference():
    """The old momentum goes against an objective; only the option sees it."""
    updates = gradients(7)
    against, found = jax.tree.map(lambda g: -5 * g[0], updates), {}
    for option in (False, True):
        own, tx, update = of("adam", include_momentum=option)
        _, state = jax.jit(own.update)(against, own.init(PARAMS), PARAMS)
        given = tx.init(PARAMS)._replace(optimizer=state)
        step, _ = update(updates, given, PARAMS)
        found[option] = np.max(cosines(updates, step))
    assert found[False] > 0.3
    assert found[True] < 0.05


# ---------------------------------------------------------------------------
# Added weights
# ---------------------------------------------------------------------------


@jax.jit
def _cleared(matrix, weights, rest):
    gram = split_gram(matrix)
    lengths = gram.norms * gram.scale
    return length.cleared(weights, gram, rest / lengths / gram.scale)


def cleared(*given):
    return jax.device_get(_cleared(*map(np.float32, given)))


@pytest.mark.parametrize("seed", range(6))
def test_added_weights_by_their_equation(seed):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-2, 2, 4)
    g = rng.normal(size=(4, 9)) * sizes[:, None]
    matrix, rest = g @ g.T, g @ rng.normal(size=9) * 3
    weights = rng.uniform(0, 1, 4) / sizes
    found, capped = cleared(matrix, weights, rest)
    aim = weights + non_negative(matrix, -(matrix @ weights + rest))
    np.testing.assert_allclose(found * sizes, aim * sizes, rtol=2e-4, atol=2e-4)
    assert not capped
    assert np.min((matrix @ found + rest) / sizes) > -1e-3


def test_added_weights_are_capped_and_it_says_so():
    """Nearly opposed: what would clear the rest is thousands of times the weights."""
    angle = np.pi - 1e-3
    g = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    rest = g @ np.array([0.0, -10.0])
    found, capped = cleared(g @ g.T, np.ones(2), rest)
    assert bool(capped)
    np.testing.assert_allclose(found, [101.0, 101.0], rtol=1e-5)
    # Of gradients of any lengths: weights times lengths are what is capped.
    sizes = np.array([1.0, 1e3])
    matrix = (g @ g.T) * sizes[:, None] * sizes
    found, capped = cleared(matrix, 1 / sizes, rest * sizes)
    assert bool(capped)
    np.testing.assert_allclose(found * sizes, [101.0, 101.0], rtol=1e-4)


def test_a_capped_step_is_counted_and_certified_all_the_same():
    own = optax.adam(0.1)
    rng = np.random.default_rng(0)
    first, across = rng.normal(size=(2, 20))
    updates = {"w": np.float32(np.stack([first, -first + 1e-3 * across]))}
    params = {"w": np.zeros(20, np.float32)}
    against = {"w": np.float32(-20 * across)}
    _, state = jax.jit(own.update)(against, own.init(params), params)
    tx = optimizer_aware(
        aggregators.upgrad(2), own, include_momentum=True, certify=True
    )
    given = tx.init(params)._replace(optimizer=state)
    step, new = jax.jit(tx.update)(updates, given, params)
    assert int(new.aggregator.fallbacks) == 1
    assert int(new.certificate.corrections) == 1
    assert np.min(new.certificate.cosines) < -0.02
    # Opposed to 1e-3, their Gram matrix in float32 knows 1e-6 of itself to 10 %: the
    # rise becomes some fiftieth of what it was, not 0.
    assert np.max(cosines(updates, step)) < 1e-3


# ---------------------------------------------------------------------------
# Invariances
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("include_momentum", [False, True])
def test_objectives_in_another_order(include_momentum):
    own, tx, update = of("adamw", include_momentum=include_momentum)
    state = tx.init(PARAMS)._replace(optimizer=warm(own))
    updates, order = gradients(4, ratio=10.0), np.array([2, 0, 1])
    step, new = update(updates, state, PARAMS)
    turned, other = update(jax.tree.map(lambda g: g[order], updates), state, PARAMS)
    np.testing.assert_allclose(flat(turned), flat(step), rtol=1e-4, atol=1e-6)
    weights = np.asarray(new.aggregator.weights)
    np.testing.assert_allclose(other.aggregator.weights, weights[order], rtol=1e-4)


def test_rescaled_objectives():
    """ConFIG's direction doesn't depend on sizes, UPGrad's update is linear in them.

    As without an optimizer, in a metric that gradients don't move: one rate a leaf.
    """
    rates = {"bias": optax.sgd(4.0), "kernel": optax.sgd(0.25), "scale": optax.sgd(1.0)}
    own = optax.partition(rates, {n: n if n in rates else "scale" for n in PARAMS})
    updates = gradients(5)

    def steps_of(base):
        tx = optimizer_aware(getattr(aggregators, base)(K), own)
        update = jax.jit(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[0])

        def scaled(*sizes):
            given = np.float32(sizes)
            return flat(update(jax.tree.map(lambda g: (g.T * given).T, updates)))

        return scaled

    config, linear = steps_of("conflict_free"), steps_of("upgrad")
    one, other = config(1, 1, 1), config(1, 256, 1 / 64)
    np.testing.assert_allclose(
        other / np.linalg.norm(other), one / np.linalg.norm(one), atol=1e-5
    )
    both = linear(3, 1, 8)
    np.testing.assert_allclose(
        linear(1, 1 / 2, 2) + linear(2, 1 / 2, 6), both, atol=1e-5 * np.abs(both).max()
    )


def test_certified_with_a_step_where_the_preconditioner_is_zero():
    """A frozen leaf that still decays: what that does to a loss is part of the step."""
    labels = {"moves": "adam", "decays": "frozen"}
    own = optax.chain(
        optax.partition(
            {"adam": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels
        ),
        optax.add_decayed_weights(-1.0),
    )
    params = {"moves": np.zeros(3, np.float32), "decays": np.full(3, 5, np.float32)}
    rng = np.random.default_rng(0)
    updates = {
        "moves": rng.normal(size=(2, 3)).astype(np.float32),
        # Shrinking the frozen leaf raises the first loss by more than Adam lowers it.
        "decays": np.array([[-1.0, -1, -1], [0, 0, 0]], np.float32),
    }
    tx = optimizer_aware(aggregators.upgrad(2), own, certify=True)
    step, state = jax.jit(tx.update)(updates, tx.init(params), params)
    slopes = sum(np.sum(updates[n] * np.asarray(step[n]), axis=1) for n in params)
    assert state.certificate.corrections == 1
    assert np.all(slopes <= 1e-5 * 15)  # 15: the size of what is cancelled
