"""Eight simulated devices: the same numbers, the same shardings, few collectives.

Coordination is not linear. Gradients are averaged over devices before it, and where that
is left to the compiler (a global batch under ``jit``) nothing else can happen.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import eagc, value_and_grads

CONFIGURATIONS = {
    "global": {"granularity": "global", "scale": "global", "descent_guard": 0.5},
    "channel": {"energy": {"magnitude": 1.0, "progress": 1.0, "fisher": 1.0}},
    "element": {"granularity": "element", "energy": "sensitivity"},
}
# Explicit axes come with the slow tests, as in aggregators/test_devices.py.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name == "element" else ())
    for name in CONFIGURATIONS
]
AXES = [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)]
SPECS = {"kernel": P(None, "model"), "bias": P("model"), "out": P("model", None)}


def make_mesh(axis_type, shape=(2, 4)):
    assert len(jax.devices()) >= 8  # simulated: tests/conftest.py
    return jax.make_mesh(shape, ("data", "model"), axis_types=(axis_type,) * 2)


def make_params():
    draw = np.random.default_rng(0).normal
    return {
        name: draw(size=size).astype(np.float32)
        for name, size in {"kernel": (6, 8), "bias": (8,), "out": (8, 4)}.items()
    }


X = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)


def losses_fn(params, x):
    hidden = jnp.tanh(x @ params["kernel"] + params["bias"])
    # An output's sharding must be said where axes are explicit: a sharded one is summed.
    explicit = jax.sharding.get_abstract_mesh()._any_axis_explicit
    where = {"out_sharding": P("data", None)} if explicit else {}
    out = jnp.einsum("bh,ho->bo", hidden, params["out"], **where)
    return jnp.stack([jnp.mean(out**2), 5 * jnp.mean(jnp.abs(out - 1))])


def steps(tx, params, x, state, number=3):
    def body(carry, _):
        params, state = carry
        _, gradients = value_and_grads(losses_fn)(params, x)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, state), length=number)[0]


def sharded(mesh):
    params = {
        name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name]))
        for name, leaf in make_params().items()
    }
    return params, jax.device_put(X, NamedSharding(mesh, P("data", None)))


def assert_close(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5)


def coordinator(name):
    return eagc(2, preset="article", floor=0.0, warmup_steps=0, **CONFIGURATIONS[name])


@functools.cache
def on_one_device(name):
    tx = optax.chain(coordinator(name), optax.sgd(0.1, momentum=0.9))
    params = make_params()
    state = jax.jit(tx.init)(params)
    return jax.jit(functools.partial(steps, tx))(params, X, state)


@pytest.mark.parametrize("axis_type", AXES)
@pytest.mark.parametrize("name", NAMES)
def test_sharded_equals_unsharded(name, axis_type):
    tx = optax.chain(coordinator(name), optax.sgd(0.1, momentum=0.9))
    with jax.set_mesh(make_mesh(axis_type)) as _:
        params, x = sharded(jax.sharding.get_mesh())
        state = jax.jit(tx.init)(params)
        found = jax.jit(functools.partial(steps, tx))(params, x, state)
        # lax.scan asks the same: a state whose type changes could not be carried.
        assert jax.tree.map(jax.typeof, found) == jax.tree.map(
            jax.typeof, (params, state)
        )
        for leaf, spec in SPECS.items():
            assert found[0][leaf].sharding.is_equivalent_to(
                NamedSharding(jax.sharding.get_mesh(), spec), found[0][leaf].ndim
            )
    assert_close(found, on_one_device(name))


# Not: traced with automatic axes. There the compiler chooses, unless told.
@pytest.mark.parametrize(
    ("axis_type", "traced"),
    [
        (AxisType.Auto, False),
        pytest.param(AxisType.Explicit, False, marks=pytest.mark.slow),
        (AxisType.Explicit, True),
    ],
)
def test_state_follows_the_sharding_of_params(axis_type, traced):
    tx = coordinator("channel")
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        params, _ = sharded(mesh)
        assessed, gate, _ = (jax.jit(tx.init) if traced else tx.init)(params)

    def has(leaf, spec):
        return leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)

    for name, spec in SPECS.items():
        assert has(assessed.direction[name], spec)
        assert has(assessed.second_moment[name], spec)
    # What is kept per block is small: one axis of each leaf, sharded as the leaf's is.
    for values in (assessed.energies, gate.gates):
        assert has(values["kernel"], P(None, None, "model"))
        assert has(values["bias"], P())
        assert has(values["out"], P())


@pytest.mark.parametrize("axis_type", AXES)
@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_gathered(name, axis_type):
    """Statistics are summed across devices; gradients stay where they are."""
    tx = coordinator(name)
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        params, _ = sharded(mesh)
        gradients = {
            leaf: jax.device_put(
                np.ones((2, *params[leaf].shape), np.float32),
                NamedSharding(mesh, P(None, *spec)),
            )
            for leaf, spec in SPECS.items()
        }
        state = jax.jit(tx.init)(params)
        compiled = jax.jit(tx.update).lower(gradients, state, params).compile()
    text = compiled.as_text()
    # Only block values move between devices: K x 16 for all leaves together.
    moves = r"= (.*) (?:all-gather|all-to-all|collective-permute)(?:-start)?\("
    for shapes in re.findall(moves, text):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            size = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
            assert size <= 2 * 16, shapes
    reduced = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    assert reduced  # that this finds what it looks for
    # "out" is sharded along the axis that its blocks span: their sums, K x 4 numbers,
    # are the largest thing to be reduced. A gradient has K x 48 or K x 32.
    for shapes in reduced:
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            size = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
            assert size <= 2 * 4, shapes


def test_mean_then_coordinate_equals_one_device_and_the_reverse_does_not():
    """Eight devices, each with its part of the batch, explicit collectives."""
    tx = eagc(
        2,
        preset="article",
        granularity="tensor",
        floor=0.0,
        smoothing=0.0,
        warmup_steps=0,
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params = make_params()
    state = jax.jit(tx.init)(params)

    def local(mean_first):
        def update(params, x):
            params = jax.lax.pcast(params, "data", to="varying")
            _, gradients = value_and_grads(losses_fn)(params, x)
            if mean_first:
                gradients = jax.lax.pmean(gradients, "data")
            updates, _ = tx.update(gradients, state)
            return updates if mean_first else jax.lax.pmean(updates, "data")

        return jax.jit(
            jax.shard_map(
                update, mesh=mesh, in_specs=(P(), P("data", None)), out_specs=P()
            )
        )(params, X)

    _, gradients = jax.jit(value_and_grads(losses_fn))(params, X)
    expected, _ = jax.jit(tx.update)(gradients, state)
    assert_close(local(mean_first=True), expected)
    wrong = local(mean_first=False)
    wrong, expected = jax.device_get((wrong, expected))
    assert max(np.max(np.abs(wrong[k] - expected[k])) for k in params) > 1e-3
