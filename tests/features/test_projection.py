"""Elastic projection of parameter gradients: an oracle, identities, states."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import assess_energy, eagc, elastic_projection, sum_objectives
from eagc_jax.features import projection
from tests import oracles

K, STEPS = 3, 4
PARAMS = oracles.parameters()
STREAM = oracles.gradient_stream(K, STEPS, seed=3)
# Equal options are one object, and so one compilation.
projected = functools.cache(elastic_projection)


def at(step, scale=1.0):
    return {name: values[step] * np.float32(scale) for name, values in STREAM.items()}


def run(tx, steps=range(STEPS), scale=1.0, state=None):
    """The outputs of each step, and the last state."""
    state = jax.jit(tx.init)(PARAMS) if state is None else state
    update = jax.jit(tx.update)
    outputs = []
    for step in steps:
        out, state = update(at(step, scale), state)
        outputs.append(jax.device_get(out))
    return outputs, jax.device_get(state)


def expected(granularity, supervised, energy, eep, cap, only_conflict, steps=STEPS):
    """Loops over blocks in float64; (outputs by step, last weights by block)."""
    shapes = oracles.SHAPES
    if granularity == "global":
        blocks = {("global", ()): [(n, slice(None)) for n in shapes]}
    else:
        blocks = {
            (name, place): [(name, entries)]
            for name, shape in shapes.items()
            for place, entries in oracles._blocks_of(shape, granularity).items()
        }
    direction = {n: np.zeros(int(np.prod(s))) for n, s in shapes.items()}
    average = dict.fromkeys(blocks, 0.0)
    visits = dict.fromkeys(blocks, 0)
    outputs, weights = [], {}
    for step in range(steps):
        g = {n: x.astype(np.float64).reshape(K, -1) for n, x in at(step).items()}
        out = {n: x.copy() for n, x in g.items()}
        for key, parts in blocks.items():
            vectors = np.concatenate([g[n][:, where] for n, where in parts], axis=1)
            d = np.concatenate([direction[n][where] for n, where in parts])
            own = vectors[supervised]
            d = own if energy == "current" else d
            e = [_cosine(vector, d) ** 2 for vector in vectors]
            if energy == "running" and np.any(d) and np.any(own):
                average[key] = 0.95 * average[key] + 0.05 * e[supervised]
                visits[key] += 1
            mu = average[key] / (1 - 0.95 ** max(visits[key], 1))
            mu = float(np.any(own)) if energy == "current" else mu
            weights[key] = np.zeros(K)
            for k in set(range(K)) - {supervised}:
                tau = max(1 - e[k] / mu, 0.0) if mu > 0 else 0.0
                tau = 1.0 if energy is None else tau
                inner = vectors[k] @ own
                if only_conflict and inner >= 0:
                    tau = 0.0
                w = weights[key][k] = min(eep * tau, cap)
                for n, where in parts:
                    if np.any(own):
                        off = w * inner / (own @ own) * g[n][supervised][where]
                        out[n][k][where] -= off
        for n in shapes:
            direction[n] = 0.9 * direction[n] + 0.1 * g[n][supervised]
        outputs.append({n: out[n].reshape(K, *s) for n, s in shapes.items()})
    return outputs, weights


def _cosine(a, b):
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / size if size > 0 else 0.0


@pytest.mark.parametrize(
    ("granularity", "supervised", "energy", "eep", "cap", "only_conflict"),
    [
        ("tensor", 0, "running", 0.5, 1.0, False),
        ("channel", 1, "running", 1.5, 1.0, True),
        ("global", 2, "running", 3.0, np.inf, False),
        ("channel", 0, "current", 0.7, 1.0, False),
        ("global", 1, "current", 1.0, 0.4, True),
        ("tensor", 2, None, 0.5, 1.0, False),
    ],
)
def test_equations(granularity, supervised, energy, eep, cap, only_conflict):
    options = (granularity, supervised, energy, eep, cap, only_conflict)
    tx = elastic_projection(
        K,
        supervised=supervised,
        eep_weight=eep,
        granularity=granularity,
        only_conflict=only_conflict,
        energy=energy,
        max_projection=None if cap == np.inf else cap,
    )
    outputs, state = run(tx)
    wanted, weights = expected(*options)
    for found, exact in zip(outputs, wanted, strict=True):
        # float32: sums of at most 24 products, then a difference. A weight divides by
        # mu, which can be 0.01: ten times the error of one rounding more.
        for name in PARAMS:
            size = np.abs(exact[name]).max()
            np.testing.assert_allclose(found[name], exact[name], atol=3e-6 * size)
    for name in state.weights:
        for place in np.ndindex(state.weights[name].shape[1:]):
            kept = state.weights[name][(slice(None), *place)]
            np.testing.assert_allclose(kept, weights[name, place], atol=1e-5)
    assert state.count == STEPS


def test_without_energy_it_is_one_sided_pcgrad():
    tx = elastic_projection(
        K, eep_weight=1.0, energy=None, only_conflict=True, granularity="global"
    )
    grads = at(1)
    for leaf in grads.values():
        leaf[1] *= -1  # which makes it conflict
    found, _ = jax.jit(tx.update)(grads, tx.init(PARAMS))
    g = np.concatenate([grads[n].reshape(K, -1) for n in PARAMS], axis=1)
    g = g.astype(np.float64)
    assert np.any(g[1:] @ g[0] < 0)  # or nothing would be tested
    for k in range(1, K):
        g[k] -= min(g[k] @ g[0], 0.0) / (g[0] @ g[0]) * g[0]
    flat = np.concatenate([found[n].reshape(K, -1) for n in PARAMS], axis=1)
    np.testing.assert_allclose(flat, g, atol=2e-6 * np.abs(g).max())
    # As A-GEM promises: no conflict with the supervised objective is left.
    cosines = flat[1:] @ flat[0] / np.linalg.norm(flat[1:], axis=1)
    assert np.all(cosines >= -1e-5 * np.linalg.norm(flat[0]))


def test_the_supervised_gradient_and_the_first_step_pass_untouched():
    tx = elastic_projection(K, supervised=1)
    outputs, _ = run(tx)
    for step, out in enumerate(outputs):
        for name, leaf in at(step).items():
            np.testing.assert_array_equal(out[name][1], leaf[1])
    chex.assert_trees_all_equal(outputs[0], at(0))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("granularity", ["channel", "global"])
def test_the_gradients_scale_does_not_matter(scale, granularity):
    tx = projected(K, granularity=granularity, eep_weight=1.0)
    plain, state = run(tx)
    scaled, same = run(tx, scale=scale)
    for found, exact in zip(scaled, plain, strict=True):
        found = jax.tree.map(lambda x: x / np.float32(scale), found)
        chex.assert_trees_all_close(found, exact, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(same.weights, state.weights, atol=1e-5)


def test_what_is_not_finite_passes_and_is_not_remembered():
    tx = projected(K)
    _, before = run(tx, steps=[0, 1])
    update = jax.jit(tx.update)
    for objective in (0, 2):
        bad = at(2)
        bad["kernel"] = bad["kernel"].copy()
        bad["kernel"][objective, 0, 0] = np.nan
        out, after = update(bad, before)
        chex.assert_trees_all_equal(jax.device_get(after), before)
        for name in PARAMS:  # and doesn't spread
            np.testing.assert_array_equal(
                np.isnan(out[name]), np.isnan(bad[name]), err_msg=name
            )


def test_dtypes_and_complex_leaves():
    tx = elastic_projection(2, eep_weight=1.0, energy="current")
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(2, 2, 4)).astype(np.float32)
    params = {"c": np.zeros(4, np.complex64), "h": np.zeros(4, jnp.bfloat16)}
    grads = {"c": pair[0] + 1j * pair[1], "h": pair[0].astype(jnp.bfloat16)}
    out, state = jax.jit(tx.update)(grads, tx.init(params))
    assert out["c"].dtype == jnp.complex64
    assert out["h"].dtype == jnp.bfloat16
    assert state.weights.flat.dtype == jnp.float32
    # A complex leaf is its real and imaginary parts.
    flat = {"c": np.concatenate([grads["c"].real, grads["c"].imag], axis=1)}
    real, _ = jax.jit(tx.update)(flat, tx.init({"c": np.zeros(8, np.float32)}))
    found = np.asarray(out["c"])
    found = np.concatenate([found.real, found.imag], axis=1)
    np.testing.assert_allclose(found, real["c"], rtol=1e-5, atol=1e-6)


def test_in_a_chain_under_scan_and_vmap():
    tx = optax.chain(
        elastic_projection(K, granularity="channel"),
        eagc(K, preset="article"),
        optax.sgd(0.1),
    )

    def train(params, stream):
        def body(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), stream)[0]

    params, state = jax.device_get(jax.jit(train)(PARAMS, STREAM))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    shown = optax.tree.get(state, "weights")
    assert shown["kernel"].shape == (K, 1, 4)
    assert np.any(shown.flat > 0)
    two = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), STREAM)
    many, _ = jax.jit(jax.vmap(train, in_axes=(None, 0)))(PARAMS, two)
    first = jax.tree.map(lambda leaf: leaf[0], jax.device_get(many))
    chex.assert_trees_all_close(first, params, rtol=1e-5, atol=1e-6)


def test_an_empty_tree():
    tx = elastic_projection(2)
    assert tx.update({}, tx.init({}))[0] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_objectives": 0}, "num_objectives must be"),
        ({"supervised": 2}, "supervised is objective 2"),
        ({"granularity": "element"}, "granularity 'element'"),
        ({"granularity": "row"}, "granularity must be one of"),
        ({"energy": "magnitude"}, "energy must be one of"),
        ({"eep_weight": -1.0}, "eep_weight must be"),
        ({"max_projection": np.inf}, "max_projection must be"),
        ({"direction_decay": 1.0}, "direction_decay must lie"),
        ({"reference_decay": -0.1}, "reference_decay must lie"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        elastic_projection(**{"num_objectives": 2, **options})


def test_messages_when_traced():
    params, grads = np.zeros(3, np.float32), np.zeros((2, 3), np.float32)
    tx = elastic_projection(2)

    def traced(tx, updates):
        jax.eval_shape(lambda: tx.update(updates, tx.init({"a": params})))

    with pytest.raises(ValueError, match="objective axis first"):
        traced(tx, {"a": params})
    with pytest.raises(ValueError, match="different trees"):
        traced(tx, {"b": grads})
    with pytest.raises(ValueError, match="objective axis first"):
        traced(optax.chain(eagc(2, preset="article"), tx), {"a": grads})
    with pytest.raises(ValueError, match="before assess_energy"):
        traced(optax.chain(assess_energy(2), tx, sum_objectives()), {"a": grads})


def test_the_state_is_public():
    state = elastic_projection(2, energy=None).init({"a": jnp.zeros(3)})
    assert isinstance(state, projection.ElasticProjectionState)
    assert state.direction == ()
    assert state.average == {}
