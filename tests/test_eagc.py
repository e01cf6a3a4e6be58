"""What ``eagc`` is by default, what its presets are, and what it refuses."""

import functools
import inspect

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import (
    assess_energy,
    coordinator,
    diagnostics,
    eagc,
    optimizer_aware,
    soft_gate,
    sum_objectives,
)
from eagc_jax.aggregators import elastic_cone
from tests.aggregators.streams import PARAMS, stream, tree

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
# The one place that says what the default is.
BALANCE = coordinator._BALANCED["balanced"]
STIFFNESS = coordinator._STIFF["balanced"]


def over(tx, stream, extra=None):
    """Updates of every step and the last state, inside of jit."""

    def body(state, g):
        return tx.update(g, state, PARAMS, **(extra or {}))[::-1]

    return jax.lax.scan(body, tx.init(PARAMS), stream)[::-1]


program = functools.cache(lambda tx: jax.jit(functools.partial(over, tx)))


def shown(found):
    """As NumPy, updates ``(steps, 10)``."""
    outs, state = jax.device_get(found)
    outs = [outs[name].reshape(len(outs[name]), -1) for name in PARAMS]
    return np.float64(np.concatenate(outs, axis=1)), state


def run(tx, gradients, **extra):
    return shown(program(tx)(tree(gradients), extra))


def in_units(gradients):
    """Losses a million apart."""
    return gradients * np.geomspace(1e3, 1e-3, gradients.shape[1])[:, None]


# --- balanced -------------------------------------------------------------------------


@jax.jit
def both(stream, weights):
    plain = elastic_cone(
        2, preference=weights, balance=BALANCE, stiffness=STIFFNESS, memory=4.0
    )
    return over(eagc(2, weights=weights, memory=4.0), stream), over(plain, stream)


@pytest.mark.parametrize(
    "weights", [None, np.float32([1.0, 3.0]), np.float32([0.2, 0.0])]
)
def test_the_default_is_the_elastic_cone_with_weights_of_their_size(weights):
    gradients = in_units(stream(steps=6, number=2))
    (found, state), (expected, other) = map(shown, both(tree(gradients), weights))
    size = 1.0 if weights is None else np.sum(weights) / 2
    longest = np.abs(expected).max()
    np.testing.assert_allclose(found, size * expected, rtol=2e-5, atol=2e-6 * longest)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    np.testing.assert_allclose(state.weights, size * other.weights, rtol=2e-5)


def test_weights_are_exact_where_nothing_conflicts():
    gradients = np.abs(stream(steps=2, number=2))
    weights = np.array([0.3, 1.7], np.float32)
    _, state = run(eagc(2, weights=weights, balance=0.0), gradients)
    np.testing.assert_array_equal(state.weights, weights)


def test_without_balance_and_stiffness_it_is_the_weighted_sum():
    gradients = stream(steps=2, number=2)
    options = {"balance": 0.0, "stiffness": 0.0}
    found, _ = run(eagc(2, weights=[1.0, 3.0], **options), gradients)
    expected, _ = run(sum_objectives([1.0, 3.0]), gradients)
    np.testing.assert_array_equal(found, expected)


def test_an_absent_objective_does_not_grow_the_others():
    gradients = np.abs(stream(steps=1, number=2))
    tx = eagc(2, weights=[1.0, 3.0], balance=0.0)
    _, state = run(tx, gradients, active_mask=np.array([True, False]))
    np.testing.assert_array_equal(state.weights, [1.0, 0.0])


def test_it_does_not_depend_on_the_units_of_losses():
    gradients = stream(steps=6, number=2)
    tx = eagc(2, balance=1.0)
    one, other = run(tx, gradients)[0], run(tx, in_units(gradients))[0]
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_blocks():
    gradients = stream(steps=3, number=2)
    found, state = run(eagc(2, granularity="tensor"), gradients)
    expected, _ = run(
        elastic_cone(2, granularity="tensor", balance=BALANCE, stiffness=STIFFNESS),
        gradients,
    )
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert state.method.gates.shape == (2, 2)


# --- article, and what is in between --------------------------------------------------


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_the_article_is_its_chain(weights):
    gradients = stream(steps=4, number=2)
    options = {"granularity": "tensor", "weights": weights}
    chain = optax.chain(
        assess_energy(2, **options),
        soft_gate(2, warmup_steps=2, **options),
        sum_objectives(),
    )
    tx = eagc(2, preset="article", warmup_steps=2, **options)
    found, state = run(tx, gradients)
    expected, other = run(chain, gradients)
    np.testing.assert_array_equal(found, expected)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    assert np.ptp(optax.tree.get(state, "gates")["b"]) > 0  # it gates


def test_with_an_energy_the_gate_comes_first():
    gradients = stream(steps=4, number=2)
    gate = {"granularity": "tensor", "energy": "magnitude"}
    found, _ = run(eagc(2, warmup_steps=2, **gate), gradients)
    chain = optax.chain(
        assess_energy(2, **gate),
        soft_gate(2, granularity="tensor", warmup_steps=2),
        elastic_cone(2, balance=BALANCE, stiffness=STIFFNESS),
    )
    expected, _ = run(chain, gradients)
    np.testing.assert_allclose(found, expected, **CLOSE)
    same = eagc(2, preset="article", warmup_steps=2, granularity="tensor")
    assert np.abs(run(same, gradients)[0] - found).max() > 0.1
    # The presets differ in nothing but defaults.
    same = eagc(
        2,
        preset="article",
        warmup_steps=2,
        granularity="tensor",
        balance=BALANCE,
        stiffness=STIFFNESS,
    )
    np.testing.assert_array_equal(run(same, gradients)[0], found)


@jax.jit
def gated_and_plain(stream, balance):
    options = {"weights": [1.0, 3.0], "balance": balance, "memory": 3.0}
    gated = eagc(2, energy="magnitude", floor=1.0, **options)
    return over(gated, stream), over(eagc(2, **options), stream)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_balance_does_not_take_weights_for_units(balance):
    """Behind a gate at rest it is what it is without one, weights included."""
    gradients = in_units(stream(steps=5, number=2))
    found, expected = (shown(x)[0] for x in gated_and_plain(tree(gradients), balance))
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6 * size)


GATE = {
    "scale": "global",
    "temperature": 0.5,
    "floor": 0.1,
    "smoothing": 0.5,
    "hysteresis": 0.1,
    "slew": 1.0,
    "warmup_steps": 10,
    "descent_guard": 0.5,
    "alignment_floor": 0.2,
    "eps": 1e-6,
    "param_specs": {"a": P(), "b": P()},
}


@pytest.mark.parametrize("name", GATE)
def test_options_of_the_gate_need_one(name):
    with pytest.raises(ValueError, match=name) as caught:
        eagc(2, **{name: GATE[name]})
    for remedy in ("energy='magnitude'", "preset='article'"):
        assert remedy in str(caught.value)
    eagc(2, preset="article", **{name: GATE[name]})
    eagc(2, energy="magnitude", **{name: GATE[name]})


@pytest.mark.parametrize(
    ("name", "value", "without", "within"),
    [
        ("memory", 10.0, {"preset": "article"}, {}),
        ("memory", 10.0, {"balance": 0.0, "stiffness": 0.0}, {"balance": 0.0}),
        ("release", 8.0, {"preset": "article"}, {"energy": "magnitude"}),
        ("direction_decay", 0.5, {}, {"energy": "progress"}),
        ("direction_decay", None, {"energy": "fisher"}, {"energy": "exploratory"}),
        ("moment_decay", 0.9, {}, {"energy": {"magnitude": 1.0, "fisher": 0.5}}),
        ("moment_decay", None, {"preset": "article"}, {"energy": "fisher"}),
    ],
)
def test_what_would_change_nothing_is_refused(name, value, without, within):
    with pytest.raises(ValueError, match=f"^{name} is an option of"):
        eagc(2, **without, **{name: value})
    eagc(2, **within, **{name: value})
    default = inspect.signature(eagc).parameters[name].default
    assert coordinator._DEFAULTS[name] == default
    eagc(2, **without, **{name: default})


def test_every_default_of_the_gate_can_be_asked_for():
    stages = dict(inspect.signature(assess_energy).parameters)
    stages |= inspect.signature(soft_gate).parameters
    defaults = {name: stages[name].default for name in GATE}
    gradients = stream(steps=2, number=2)
    found, _ = run(eagc(2, preset="article", **defaults), gradients)
    expected, _ = run(eagc(2, preset="article"), gradients)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "fast"),
        ("balance", 2.0),
        ("memory", 0.0),
        ("stiffness", [0.5, -1.0]),
        ("weights", [1.0, -1.0]),
        ("granularity", "element"),  # there is no Gram matrix of an entry
        ("granularity", "layer"),
        ("nonfinite", "ignore"),
    ],
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=name):
        eagc(2, **{name: value})


# --- as part of a training step -------------------------------------------------------


@pytest.mark.parametrize(("certify", "balance"), [(False, 1.0), (True, None)])
def test_in_the_optimizers_metric_no_loss_rises(certify, balance):
    """To first order, momentum included: losses a million apart, opposed in part.

    Without a certificate the metric is that of the weights before; where balance leaves
    one gradient a thousand times the other, the first steps' isn't near enough.
    """
    gradients = in_units(stream(seed=1, steps=12, number=2))
    tx = optimizer_aware(
        eagc(2, balance=balance),
        optax.adam(0.1),
        include_momentum=True,
        certify=certify,
    )
    steps, state = run(tx, gradients)
    lengths = np.linalg.norm(steps, axis=1)[:, None]
    cosines = np.einsum("tkn,tn->tk", gradients, steps) / lengths
    cosines /= np.linalg.norm(gradients, axis=2)
    rises = cosines.max(axis=1)
    assert rises.max() <= 1e-5
    assert state.aggregator.method.counts.tolist() == [[12, 12]]


@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
def test_nonfinite(policy):
    gradients = stream(steps=3, number=2)
    gradients[1, 0, 0] = np.inf
    found, state = run(eagc(2, nonfinite=policy), gradients)
    assert state.nonfinite_count.tolist() == [1, 0]
    assert state.method.counts.tolist() == [[2, 2 + (policy == "skip_objective")]]
    assert np.all(np.isfinite(found[[0, 2]]))
    if policy == "propagate":
        assert np.all(np.isnan(found[1]))
    elif policy == "skip_update":
        np.testing.assert_array_equal(found[1], 0.0)
    else:
        assert np.all(np.isfinite(found[1]))
        assert np.any(found[1] != 0)


@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
def test_nonfinite_behind_a_gate(policy):
    gradients = stream(steps=3, number=2)
    gradients[1, 0, 0] = np.nan
    found, state = run(eagc(2, energy="magnitude", nonfinite=policy), gradients)
    assert diagnostics.report(state).nonfinite_count.tolist() == [1, 0]
    assert state[-1].method.counts.tolist() == [[2, 2 + (policy == "skip_objective")]]
    assert np.all(np.isfinite(found[[0, 2]]))
    assert np.all(np.isnan(found[1])) == (policy == "propagate")


WIDE = {"kernel": np.zeros((6, 8), np.float32), "bias": np.zeros(8, np.float32)}
SPECS = {"kernel": P(None, "model"), "bias": P("model")}


def wide_gradients():
    rng = np.random.default_rng(3)
    drawn = {n: rng.normal(size=(4, 2, *p.shape)) for n, p in WIDE.items()}
    for name in drawn:
        drawn[name][:, 1] -= drawn[name][:, 0]
    return jax.tree.map(lambda g: g.astype(np.float32), drawn)


def steps_of(update, state, gradients):
    outs = []
    for t in range(4):
        out, state = update(jax.tree.map(lambda g, t=t: g[t], gradients), state)
        outs.append(out)
    return jax.device_get((outs, state))


@functools.cache
def on_one_device(conflict_memory):
    tx = eagc(2, memory=2.0, conflict_memory=conflict_memory)
    return steps_of(jax.jit(tx.update), jax.jit(tx.init)(WIDE), wide_gradients())


@pytest.mark.parametrize(
    ("inside", "conflict_memory"),
    [(False, None), (True, None), (True, 2.0)],
    ids=["jit", "shard_map", "shard_map_conflict_memory"],
)
def test_on_eight_devices(inside, conflict_memory):
    assert len(jax.devices()) >= 8  # simulated: tests/conftest.py
    gradients = wide_gradients()
    mesh = jax.make_mesh((8,), ("model",))
    stacked = jax.tree.map(lambda spec: P(None, *spec), SPECS)
    by_step = jax.tree.map(
        lambda g, spec: jax.device_put(g, NamedSharding(mesh, P(None, None, *spec))),
        gradients,
        SPECS,
    )
    tx = eagc(
        2,
        memory=2.0,
        conflict_memory=conflict_memory,
        axis_name="model" if inside else None,
    )
    update, state = tx.update, jax.jit(tx.init)(WIDE)
    if inside:
        none = jax.tree.map(lambda _: P(), state)
        update = jax.shard_map(
            tx.update,
            mesh=mesh,
            in_specs=(stacked, none),
            out_specs=(SPECS, none),
        )
    found = steps_of(jax.jit(update), state, by_step)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        found,
        on_one_device(conflict_memory),
    )


def test_options_are_injected():
    static = ("num_objectives", "preset", "energy", "granularity")
    tx = optax.inject_hyperparams(eagc, static_args=static)(
        2, balance=optax.linear_schedule(0.0, 1.0, 4), stiffness=0.5, memory=4.0
    )
    found, state = run(tx, stream(steps=3, number=2))
    assert state.hyperparams["balance"] == 0.5
    expected, _ = run(
        elastic_cone(2, balance=0.0, stiffness=0.5, memory=4.0),
        stream(steps=1, number=2),
    )
    np.testing.assert_allclose(found[0], expected[0], **CLOSE)


def test_the_report_shows_it():
    _, state = run(optax.chain(eagc(2), optax.sgd(0.1)), stream(steps=2, number=2))
    report = diagnostics.report(state)
    assert report.layers == ("global",)
    np.testing.assert_array_equal(report.gates[:, 0], state[0].method.gates[0])
