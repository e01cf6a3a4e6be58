"""Every method on one device and on eight: the same updates, and little is sent.

A small network is trained for six steps with its batch split over two devices and its
parameters over four. Under ``jit`` (automatic or explicit axes) the compiler reduces;
inside ``shard_map`` a method is told by ``axis_name``. One row a method.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import (
    aggregators,
    eagc,
    optimizer_aware,
    sum_objectives,
    value_and_grads,
)
from eagc_jax.features import elastic_projection

K = 5  # krum needs that many
# A closed form in place of loops that upgrad, with certify, has in the same place.
NUMBERS = {"optimizer_aware": 2}
EPS = float(np.finfo(np.float32).eps)
STEPS = 6  # momentum_conflict_free sees one objective a step
SPECS = {"kernel": P(None, "model"), "bias": P("model"), "out": P("model", None)}
SIZES = {"kernel": (6, 8), "bias": (8,), "out": (8, 4)}

BOTH = ("axis_name", "param_specs")
ROWS = {
    "sum": lambda **place: sum_objectives(),
    "eagc_global": lambda **place: eagc(
        K,
        preset="article",
        granularity="global",
        scale="global",
        descent_guard=0.5,
        **place,
    ),
    "eagc_tensor": lambda **place: eagc(
        K, preset="article", granularity="tensor", **place
    ),
    "eagc_channel": lambda **place: eagc(
        K,
        preset="article",
        energy={"magnitude": 1.0, "progress": 1.0, "fisher": 1.0},
        **place,
    ),
    "eagc_element": lambda **place: eagc(
        K, preset="article", granularity="element", energy="sensitivity", **place
    ),
    "elastic_projection": lambda **place: optax.chain(
        elastic_projection(K, eep_weight=1.0, **place), sum_objectives()
    ),
    "upgrad_by_tensor": lambda **place: aggregators.upgrad(
        K, granularity="tensor", **place
    ),
    "modo_by_batches": lambda **place: _with_two_batches(aggregators.modo(K, **place)),
    "optimizer_aware": lambda **place: optimizer_aware(
        aggregators.upgrad(NUMBERS["optimizer_aware"], **place),
        optax.adamw(0.1),
        include_momentum=True,
        certify=True,
    ),
}
OTHERS = {"from_weighting", "accumulate_objectives"}
OPTIONS = {
    "gradnorm": {"layers": "kernel"},
    "upgrad": {"certify": True, "gram_smoothing": 0.5},
}
ROWS |= {
    name: functools.partial(getattr(aggregators, name), K, **OPTIONS.get(name, {}))
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name)) and name not in OTHERS
}
# What a method that looks at whole gradients more than once may send: sums of a few
# numbers, each once.
REDUCTIONS = {
    "eagc_channel": 6,  # three kinds of energy, two shapes of blocks each
    "gcond": 3,  # who is finite, two Gram matrices
    "db_mtl": 3,  # who is finite; of the averages, largest entries and norms
    "excess_mtl": 3,  # the same of what the risks are the squares of
    "gradnorm": 3,  # who is finite; of the chosen layers, largest entries and norms
    # Two Gram matrices, whether the metric is 0 for each, the applied update's norm.
    "optimizer_aware": 5,
    "sam_gs": 7,  # who is finite; norms of gradients and of three trees, each in two
}
FEW = 2
# The others differ from one of these only in what they make of the same sums; they come
# with the slow tests.
DEFAULT = {
    *("sum", "eagc_global", "eagc_channel", "eagc_element", "elastic_projection"),
    *("upgrad", "nash_mtl", "modo_by_batches", "momentum_conflict_free"),
    "optimizer_aware",
    *("graddrop", "krum", "gcond", "sam_gs", "moco", "gradnorm", "famo"),
}
SAME_WAY = set(ROWS) - DEFAULT


def _with_two_batches(tx):
    def update(updates, state, params=None, **extra):
        turned = jax.tree.map(lambda g: g[::-1], updates)
        return tx.update(updates, state, params, batches=(updates, turned), **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def arguments(name, axis_name):
    """What ``shard_map`` needs besides, where the method takes it."""
    if axis_name is None or name == "sum":
        return {}
    given = {"axis_name": axis_name}
    if name in ("eagc_channel", "graddrop"):
        given["param_specs"] = SPECS
    return given


def params_and_batches():
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=size).astype(np.float32) for n, size in SIZES.items()}
    return params, rng.normal(size=(STEPS, 16, 6)).astype(np.float32)


def losses_fn(params, x, reduce, number):
    hidden = jnp.tanh(x @ params["kernel"] + params["bias"])
    # An output's sharding must be said where axes are explicit: a sharded one is summed.
    explicit = jax.sharding.get_abstract_mesh()._any_axis_explicit
    where = {"out_sharding": P("data", None)} if explicit else {}
    out = jnp.einsum("bh,ho->bo", hidden, params["out"], **where)
    return reduce(out, number)


def global_losses(out, number):
    aims = np.random.default_rng(1).normal(size=(number, 4)).astype(np.float32)
    return jnp.stack([jnp.mean((out - aim) ** 2) for aim in aims])


def local_losses(out, number):
    """Inside ``shard_map``: a part of the sum, of a part of the batch."""
    return jax.lax.pmean(global_losses(jax.lax.psum(out, "model"), number), "data")


def train(tx, name, reduce, params, batches):
    tx, number = optax.with_extra_args_support(tx), NUMBERS.get(name, K)

    def step(carry, x):
        params, state = carry
        losses, gradients = value_and_grads(losses_fn)(params, x, reduce, number)
        if name == "momentum_conflict_free":
            gradients = jax.tree.map(lambda g: g[0], gradients)
        updates, state = tx.update(gradients, state, params, value=losses)
        scaled = jax.tree.map(lambda u: -0.02 * u, updates)
        return (optax.apply_updates(params, scaled), state), updates

    (params, _), updates = jax.lax.scan(step, (params, tx.init(params)), batches)
    return params, updates


@functools.cache
def on_one_device(name):
    """What one device finds, and by how much it moves when every input is rounded."""
    tx = ROWS[name]()
    run = jax.jit(functools.partial(train, tx, name, global_losses))
    given = params_and_batches()
    found = jax.tree.map(np.asarray, run(*given))
    rng, moves = np.random.default_rng(2), []
    for _ in range(8):
        off = jax.tree.map(
            lambda x: x * (1 + EPS * rng.choice([-1, 1], x.shape).astype(np.float32)),
            given,
        )
        other = jax.tree.map(np.asarray, run(*off))
        moves.append(jax.tree.map(lambda a, b: np.max(np.abs(a - b)), found, other))
    return found, max(jax.tree.leaves(moves))


def mesh_of(axis_type):
    assert len(jax.devices()) >= 8  # simulated: tests/conftest.py
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)


def placed(mesh):
    params, batches = params_and_batches()
    params = {
        n: jax.device_put(leaf, NamedSharding(mesh, SPECS[n]))
        for n, leaf in params.items()
    }
    return params, jax.device_put(batches, NamedSharding(mesh, P(None, "data", None)))


@functools.cache
def program(name, mode):
    """The compiled program, and what it takes."""
    mesh = mesh_of(AxisType.Explicit if mode == "explicit" else AxisType.Auto)
    if mode != "shard_map":
        tx = ROWS[name]()
        function = functools.partial(train, tx, name, global_losses)
        with jax.set_mesh(mesh):
            given = placed(mesh)
            return jax.jit(function).lower(*given).compile(), given
    tx = ROWS[name](**arguments(name, "model"))
    function = functools.partial(train, tx, name, local_losses)
    steps = {n: P(None, *spec) for n, spec in SPECS.items()}
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(SPECS, P(None, "data", None)),
        out_specs=(SPECS, steps),
    )
    given = placed(mesh)
    return jax.jit(mapped).lower(*given).compile(), given


def collectives(name, mode):
    text = program(name, mode)[0].as_text()
    kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    return {k: len(re.findall(rf" {k}(?:-start)?\(", text)) for k in kinds}


def rows(slow, *others):
    """Names, those in ``slow`` marked so."""
    return [
        pytest.param(name, *others, marks=pytest.mark.slow if name in slow else ())
        for name in ROWS
    ]


CASES = [
    *rows(SAME_WAY, "shard_map"),
    *rows(ROWS, "auto"),
    *rows(ROWS, "explicit"),
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_eight_devices_equal_one(name, mode):
    compiled, given = program(name, mode)
    found = jax.tree.map(np.asarray, compiled(*given))
    expected, moved = on_one_device(name)
    for left, right in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # Sums in another order are a few roundings; entries are near 1.
        np.testing.assert_allclose(left, right, rtol=0, atol=8 * (moved + 8 * EPS))


@pytest.mark.parametrize("name", rows(SAME_WAY))
def test_gradients_stay_where_they_are(name):
    """Inside ``shard_map``, over what the plain sum sends for its own gradients."""
    plain, found = collectives("sum", "shard_map"), collectives(name, "shard_map")
    assert plain["all-reduce"] > 0  # that this finds what it looks for
    allowed = REDUCTIONS.get(name, FEW)
    assert found["all-reduce"] <= plain["all-reduce"] + allowed, (found, plain)
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        assert found[kind] == plain[kind] == 0, found
