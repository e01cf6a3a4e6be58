"""ExcessMTL, DB-MTL, GLS, COSMOS, PMTL and EPO: float64 oracles, and what they reach."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

from eagc_jax import aggregators, value_and_grads, weightings
from eagc_jax.aggregators.cosmos import cosmos_weights
from eagc_jax.aggregators.gls import gls_weights
from eagc_jax.solvers.vertices import best_vertex
from tests.aggregators.streams import PARAMS, K, flat, stream, tree

# Ten steps of float32 on numbers of order 1: a few dozen roundings.
CLOSE = {"rtol": 5e-5, "atol": 5e-6}
LOSSES = np.exp(np.random.default_rng(5).normal(size=(10, K))).astype(np.float32)


def run(tx, gradients, losses=LOSSES, extra=None):
    update, state, outs, states = jax.jit(tx.update), tx.init(PARAMS), [], []
    for t, (g, value) in enumerate(zip(gradients, losses, strict=True)):
        more = {} if extra is None else extra(t)
        out, state = update(tree(g), state, PARAMS, value=value, **more)
        outs.append(flat(out))
        states.append(state)
    return np.array(outs), jax.device_get(states)


# --- ExcessMTL ----------------------------------------------------------------------


def excess_oracle(gradients, eta, eps):
    squares, w, first = np.zeros_like(gradients[0]), np.ones(K), None
    for g in gradients:
        squares = squares + g**2
        risks = np.sum(g**2 / np.sqrt(squares + eps), axis=1)
        if first is None:
            first = risks
        else:
            w = w * np.exp(eta * risks / first)
            w = K * w / w.sum()
        yield w, w @ g


@pytest.mark.parametrize("eps", [1e-7, 0.0])
def test_excess_mtl_is_its_equations(eps):
    gradients = stream()
    tx = aggregators.excess_mtl(K, step_size=0.7, eps=eps)
    outs, states = run(tx, gradients)
    for out, state, (w, d) in zip(
        outs, states, excess_oracle(gradients, 0.7, eps), strict=True
    ):
        np.testing.assert_allclose(state.weights, w, **CLOSE)
        np.testing.assert_allclose(out, d, rtol=1e-4, atol=1e-4)
    assert np.ptp(states[-1].weights) > 0.5  # it moved


def test_excess_mtl_without_eps_ignores_the_losses_scale():
    gradients = stream()
    scale = np.array([2.0**-40, 1.0, 2.0**40])[:, None]
    tx = aggregators.excess_mtl(K, step_size=0.7, eps=0.0)
    _, one = run(tx, gradients)
    _, other = run(tx, gradients * scale)
    np.testing.assert_allclose(other[-1].weights, one[-1].weights, rtol=1e-5)


def test_excess_mtl_of_an_absent_objective_waits():
    tx = aggregators.excess_mtl(K, step_size=0.7)
    mask = np.array([True, False, True])
    _, states = run(tx, stream(), extra=lambda t: {"active_mask": mask | (t < 2)})
    before, after = states[1], states[-1]
    assert after.method.log_weights[1] == before.method.log_weights[1]
    np.testing.assert_array_equal(
        after.method.squares["b"][1], before.method.squares["b"][1]
    )
    total = np.exp(after.method.log_weights).sum()
    np.testing.assert_allclose(total, K, rtol=1e-5)


# --- DB-MTL -------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "power"), [(0.9, 0.0), (0.8, 0.5), (0.0, 0.0)])
def test_db_mtl_is_its_equations(beta, power):
    gradients, average = stream(), np.zeros((K, 10))
    outs, _ = run(aggregators.db_mtl(K, decay=beta, decay_power=power), gradients)
    pairs = zip(outs, gradients, np.float64(LOSSES), strict=True)
    for t, (out, g, losses) in enumerate(pairs, start=1):
        rate = beta / t**power
        average = rate * average + (1 - rate) * g / losses[:, None]
        norms = np.linalg.norm(average, axis=1)
        expected = norms.max() * np.sum(average / norms[:, None], axis=0)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_db_mtl_ignores_the_losses_scale():
    scale = np.array([2.0**-30, 1.0, 2.0**30])
    tx = aggregators.db_mtl(K)
    one, _ = run(tx, stream())
    other, _ = run(tx, stream() * scale[:, None], np.float32(LOSSES * scale))
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_db_mtl_of_a_loss_that_is_not_positive():
    losses = LOSSES.copy()
    losses[:, 1] = 0
    tx = aggregators.db_mtl(K)
    one, _ = run(tx, stream(), losses)
    mask = np.array([True, False, True])
    other, _ = run(tx, stream(), extra=lambda t: {"active_mask": mask})
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# --- GLS and COSMOS -----------------------------------------------------------------


@pytest.mark.parametrize("preference", [None, (3.0, 1.0, 0.0)])
def test_gls_is_its_equations(preference):
    outs, states = run(aggregators.gls(K, preference=preference), stream())
    p = np.ones(K) / K if preference is None else np.array(preference) / 4
    pairs = zip(outs, states, stream(), np.float64(LOSSES), strict=True)
    for out, state, g, losses in pairs:
        w = p * np.prod(losses**p) / losses
        np.testing.assert_allclose(state.weights, w, **CLOSE)
        np.testing.assert_allclose(out, w @ g, rtol=1e-4, atol=1e-4)


of_gls = jax.jit(gls_weights)


def test_gls_weights_are_the_gradient_of_the_geometric_mean():
    losses = np.float32([0.2, 3.0, 1.0])
    expected = np.prod(losses) ** (1 / 3) / 3 / losses
    np.testing.assert_allclose(of_gls(losses), expected, rtol=1e-5)
    huge = of_gls(np.float32([1e30, 1e30, 1e30]))  # the product isn't a float32
    np.testing.assert_allclose(huge, 1 / 3, rtol=1e-5)


def test_gls_leaves_out_losses_that_are_not_positive():
    found = of_gls(np.float32([0.0, 4.0, 1.0]))
    np.testing.assert_allclose(found, [0.0, 0.25, 1.0], rtol=1e-6)


def test_cosmos_is_its_equations():
    rays = np.random.default_rng(0).dirichlet(np.full(K, 1.2), size=10)
    tx = aggregators.cosmos(K, cosine_weight=2.0)
    outs, states = run(
        tx, stream(), extra=lambda t: {"preference": rays[t].astype(np.float32)}
    )
    pairs = zip(outs, states, stream(), np.float64(LOSSES), rays, strict=True)
    for out, state, g, losses, r in pairs:
        size = np.linalg.norm(losses)
        unit, along = r / np.linalg.norm(r), losses / size
        w = r - 2.0 / size * (unit - (unit @ along) * along)
        np.testing.assert_allclose(state.weights, w, **CLOSE)
        np.testing.assert_allclose(out, w @ g, rtol=1e-4, atol=1e-4)


def test_cosmos_weights_are_the_gradient_of_its_objective():
    losses, r = np.float32([0.2, 3.0, 1.0]), np.float32([0.2, 0.3, 0.5])

    def objective(x):
        cosine = r @ x / jnp.linalg.norm(r) / jnp.linalg.norm(x)
        return r @ x - 1.5 * cosine

    weights = jax.jit(cosmos_weights)
    found = weights(losses, r, cosine_weight=1.5)
    expected = jax.jit(jax.grad(objective))(losses)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for scale in np.float32([2.0**-80, 2.0**80]):  # what pulls is in the losses' unit
        other = weights(scale * losses, r, cosine_weight=float(1.5 * scale))
        np.testing.assert_allclose(other, found, rtol=1e-6)


# --- EPO ----------------------------------------------------------------------------


def epo_oracle(gram, losses, r, tolerance=1e-4):
    """The published linear programs by SciPy, in float64: cost, rows, bounds, optimum."""
    number = len(losses)
    rl = r * losses
    shares = rl / rl.sum()
    uneven = np.sum(shares * np.log(shares * number))
    c = gram @ (r * (np.log(shares * number) - uneven))
    if uneven > tolerance:
        bounds = np.where(c > 0, -np.inf, c)
        bounds[rl == rl.max()] = 0
        bounds = bounds if np.any(c > 0) else np.zeros(number)
        cost, rows = c, gram
    else:
        cost = gram.sum(0)
        rows = np.concatenate([gram, c[None]])
        bounds = np.append(np.zeros(number), min(0, c.max()))
    kept = np.isfinite(bounds)
    found = linprog(
        -cost,
        A_ub=-rows[kept],
        b_ub=-bounds[kept],
        A_eq=np.ones((1, number)),
        b_eq=[1.0],
    )
    return cost, rows[kept], bounds[kept], found


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_epo_solves_its_linear_program(number, balanced):
    rng = np.random.default_rng(number)
    solve = jax.jit(weightings.epo)
    for _ in range(20):
        # Of unlike lengths: the worst loss isn't always that which pulls most.
        g = rng.normal(size=(number, 5)) * rng.uniform(0.1, 1, (number, 1))
        r = rng.uniform(0.2, 1, number)
        r = r / r.sum()
        losses = 1 / r if balanced else rng.uniform(0.1, 2, number)
        gram = g @ g.T
        w = np.float64(solve(gram, losses, preference=r))
        cost, rows, bounds, found = epo_oracle(gram, losses, r)
        assert found.status == 0
        assert abs(w.sum() - 1) < 1e-5
        assert w.min() >= 0
        # Float32 of a program of numbers of order 10: 1e-4 is a hundred roundings.
        size = np.abs(gram).max()
        assert np.all(rows @ w >= bounds - 1e-4 * size)
        np.testing.assert_allclose(cost @ w, -found.fun, atol=1e-4 * size)


def test_best_vertex_says_when_there_is_none():
    solve = jax.jit(best_vertex)
    rows, bounds = np.eye(2, dtype=np.float32), np.array([0.8, 0.8], np.float32)
    assert not solve(np.ones(2, np.float32), rows, bounds)[1]
    one = np.ones((1, 1), np.float32)
    x, feasible = solve(one[0], one, -np.inf * one[0])
    assert feasible
    assert x == 1
    with pytest.raises(ValueError, match="1 to 6 variables"):
        best_vertex(jnp.ones(7), jnp.ones((1, 7)), jnp.zeros(1))


# --- PMTL ---------------------------------------------------------------------------


def least_norm_oracle(rows):
    """The point of least norm in the convex hull, over all supports."""
    best, shares = np.inf, None
    for size in range(1, len(rows) + 1):
        for support in itertools.combinations(range(len(rows)), size):
            part = rows[list(support)]
            system = np.block(
                [[part @ part.T, np.ones((size, 1))], [np.ones((1, size)), 0]]
            )
            x = np.linalg.lstsq(system, np.append(np.zeros(size), 1), rcond=None)[0]
            x = x[:size]
            length = np.linalg.norm(x @ part)
            if x.min() >= -1e-12 and abs(x.sum() - 1) < 1e-9 and length < best - 1e-12:
                best, shares = length, np.zeros(len(rows))
                shares[list(support)] = x
    return shares @ rows


@pytest.mark.parametrize("alone", [False, True])
def test_pmtl_is_the_point_of_least_norm_with_its_constraints(alone):
    rng = np.random.default_rng(0)
    vectors = rng.uniform(0.1, 1, (4, K))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    solve = jax.jit(
        lambda gram, losses, index: weightings.pmtl(
            gram, losses, preferences=vectors, index=index, constraints_alone=alone
        )
    )
    several = 0
    for trial in range(24):
        g, losses = rng.normal(size=(K, 12)), rng.uniform(0.1, 2, K)
        index = trial % 4
        active = [j for j in range(4) if (unit[j] - unit[index]) @ losses > 0]
        turned = (unit[active] - unit[index]) @ g
        rows = turned if alone and active else np.concatenate([g, turned])
        several += len(active) > 1
        w = np.float64(solve(g @ g.T, losses, index))
        expected = least_norm_oracle(rows)
        # Differences of nearly equal vectors: their products lose digits.
        np.testing.assert_allclose(w @ g, expected, rtol=1e-3, atol=1e-3)
    assert several > 5


def test_pmtl_first_goes_to_its_part():
    tx = aggregators.pmtl(2, preferences=np.eye(2), index=0, initial_steps=3)
    g, params = {"w": np.eye(2, dtype=np.float32)}, {"w": np.zeros(2, np.float32)}
    update, state = jax.jit(tx.update), tx.init(params)
    outside, inside = np.float32([1.0, 4.0]), np.float32([4.0, 1.0])
    seen = []
    for losses in (outside, outside, inside, outside):
        out, state = update(g, state, params, value=losses)
        seen.append(out["w"])
    constraint = np.array([-1.0, 1.0])
    np.testing.assert_allclose(seen[0], constraint, atol=1e-6)
    np.testing.assert_allclose(seen[2], [0.5, 0.5], atol=1e-6)
    # Once it has been inside, losses count besides, wherever it is.
    np.testing.assert_allclose(
        seen[3], least_norm_oracle(np.array([[1, 0], [0, 1], constraint])), atol=1e-5
    )
    assert np.asarray(state.method.count)[0] == 2


# --- where they end -----------------------------------------------------------------


def losses_fn(x):
    """Two bumps: a concave front, of which a weighted sum finds only the ends."""
    centre = 1 / jnp.sqrt(x.shape[0])
    return (
        1 - jnp.exp(-jnp.sum((x - centre) ** 2)),
        1 - jnp.exp(-jnp.sum((x + centre) ** 2)),
    )


def end_of(make, start, steps=800, rate=0.05):
    """The losses behind a descent with one transformation."""
    tx = make

    def body(carry, _):
        x, state = carry
        losses, grads = value_and_grads(losses_fn)(x)
        update, state = tx.update(grads, state, x, value=jnp.stack(losses))
        return (x - rate * update, state), None

    (x, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=steps)
    return jnp.stack(losses_fn(x)), x


STARTS = np.float32([[0.5, -0.4, 0.3], [-0.6, 0.2, -0.1]])


def test_epo_ends_where_weighted_losses_are_equal():
    def of(r, start):
        return end_of(aggregators.epo(2, preference=r), start)

    r = np.float32([[0.3, 0.7], [0.5, 0.5], [0.8, 0.2]])
    run_all = jax.jit(jax.vmap(jax.vmap(of, (0, None)), (None, 0)))
    losses, x = jax.device_get(run_all(r, STARTS))
    products = losses * r
    np.testing.assert_allclose(products[..., 0], products[..., 1], rtol=0.03)
    # On the front x is a multiple of (1, 1, 1).
    np.testing.assert_allclose(x - x.mean(-1, keepdims=True), 0, atol=0.02)


def test_pmtl_ends_in_its_parts():
    angles = np.linspace(0.1, np.pi / 2 - 0.1, 5)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def of(index):
        tx = aggregators.pmtl(2, preferences=vectors, index=index)
        return end_of(tx, STARTS[0])

    losses, x = jax.device_get(jax.jit(jax.vmap(of))(np.arange(5)))
    np.testing.assert_array_equal(np.argmax(losses @ vectors.T, axis=1), np.arange(5))
    np.testing.assert_allclose(x - x.mean(-1, keepdims=True), 0, atol=0.02)


# --- arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("excess_mtl", {"step_size": -1.0}, "step_size must be"),
        ("db_mtl", {"decay": 1.0}, "decay must lie"),
        ("cosmos", {"cosine_weight": -1.0}, "cosine_weight must be"),
        ("pmtl", {"preferences": np.ones((2, 2))}, r"shape \(M, 3\)"),
        ("pmtl", {"preferences": [[1.0, 0.0, -1.0]]}, "none of them zero"),
        ("pmtl", {"preferences": np.zeros((2, 3))}, "none of them zero"),
        ("pmtl", {"index": 4}, "index must be the index"),
        ("pmtl", {"initial_steps": -1}, "initial_steps must be"),
        ("pmtl", {"preference": (1.0, 1.0, 1.0)}, "has no preference"),
        ("epo", {"tolerance": -1.0}, "tolerance must be"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(aggregators, name)(K, **options)


def test_epo_of_too_many_objectives():
    with pytest.raises(ValueError, match="1 to 6 objectives"):
        aggregators.epo(7)


@pytest.mark.parametrize("name", ["gls", "cosmos", "db_mtl", "pmtl", "epo"])
def test_losses_are_needed(name):
    tx = getattr(aggregators, name)(K)
    with pytest.raises(ValueError, match="value=losses"):
        tx.update(tree(stream()[0]), tx.init(PARAMS), PARAMS)


def test_a_preference_for_the_step_is_checked():
    tx = aggregators.cosmos(K)
    update = functools.partial(tx.update, preference=np.array([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="preference must be finite and >= 0"):
        jax.eval_shape(update, tree(stream()[0]), tx.init(PARAMS), value=LOSSES[0])


def test_a_chain_with_an_optimizer():
    tx = optax.chain(aggregators.epo(2), optax.adam(0.1))
    g, state = tree(stream(number=2)[0]), tx.init(PARAMS)
    out, _ = jax.jit(tx.update)(g, state, PARAMS, value=LOSSES[0, :2])
    assert np.all(np.isfinite(flat(out)))
