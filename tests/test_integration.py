"""The transformation inside JAX, Optax, Flax, Equinox and Orbax.

What every Optax transformation must do (pure ``init``, fixed state, one compilation,
the leaf's dtype, donation, ...), and every wrapper that people put around one.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx

from eagc_jax import (
    diagnostics,
    eagc,
    soft_gate,
    stack_objectives,
    sum_objectives,
    testing,
    value_and_grads,
)


def output_first(path, shape):
    """Blocks of layouts with the output unit first: Equinox's and PyTorch's."""
    del path
    return tuple(range(1, len(shape)))


CONFIGURATIONS = {
    "default": {},
    "global": {"granularity": "global", "scale": "global", "descent_guard": 0.5},
    "tensor": {
        "granularity": "tensor",
        "energy": {"magnitude": 1.0, "progress": 2.0, "fisher": 0.5},
        "nonfinite": "skip_objective",
        "hysteresis": 0.1,
        "slew": 0.5,
    },
    "channel": {
        "energy": {"exploratory": 1.0, "sensitivity": 1.0},
        "descent_guard": 0.1,
        "nonfinite": "skip_update",
        "weights": (1.0, 2.0),
        "warmup_steps": 0,
    },
    "element": {"granularity": "element", "energy": "fisher", "descent_guard": 0.0},
    "memoryless": {"granularity": "element", "smoothing": 0.0, "warmup_steps": 1},
    "function": {
        "granularity": output_first,
        "temperature": lambda step: 1 / (1 + step),
    },
}


# Where each configuration costs a compilation of its own.
FEW = ("default", "tensor", "element")


@functools.cache
def configured(name):
    return eagc(2, preset="article", **CONFIGURATIONS[name])


@functools.cache
def jitted(tx):
    """The compiled init and update: shared by tests, since compiling is what costs."""
    return jax.jit(tx.init), jax.jit(tx.update)


SLOW = ("memoryless", "function")  # compiling these too takes half a minute


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in CONFIGURATIONS
    ],
    scope="module",
)
def tx(request):
    return configured(request.param)


@pytest.fixture(params=FEW, scope="module")
def some_tx(request):
    return configured(request.param)


def make_params(*dtypes):
    single = jnp.float32
    conv, kernel, bias = (jnp.dtype(d) for d in (dtypes or (single, single, single)))
    return {
        "conv": ones(conv, 2, 1, 1, 3),
        "dense": {"kernel": ones(kernel, 3, 2), "bias": ones(bias, 2)},
        "none": None,
    }


def ones(dtype, *shape):
    return jnp.asarray(np.ones(shape, dtype))  # nothing to compile


PARAMS = make_params()
SMALL = {"w": ones(jnp.float32, 2, 3)}


def make_gradients(step=0, params=PARAMS, number=2):
    draw = np.random.default_rng(step).normal
    return jax.tree.map(lambda p: draw(size=(number, *p.shape)).astype(p.dtype), params)


def types(tree):
    """Shape, dtype, weak type and sharding of every leaf, and the structure."""
    return jax.tree.map(jax.typeof, tree)


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_close(left, right, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol
        )


def run(tx, steps=3, params=PARAMS):
    """Updates and states of some steps, compiled."""
    init, update = jitted(tx)
    state = init(params)
    out = None
    for step in range(steps):
        out, state = update(make_gradients(step, params), state, params)
    return out, state


# --- init ---------------------------------------------------------------------------


def test_init_works_on_abstract_leaves(tx):
    state = tx.init(PARAMS)
    abstract = jax.eval_shape(lambda: PARAMS)
    assert types(jax.eval_shape(tx.init, PARAMS)) == types(state)
    assert types(tx.init(abstract)) == types(state)
    assert types(jitted(tx)[0](PARAMS)) == types(state)


def test_init_is_pure(tx):
    state = tx.init(PARAMS)
    assert_equal(tx.init(PARAMS), state)
    assert_equal(tx.init(jax.tree.map(lambda p: p * 3, PARAMS)), state)


def test_state_is_arrays(tx):
    for leaf in jax.tree.leaves(tx.init(PARAMS)):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type


def test_map_params_leaves_the_state_as_it_is(tx):
    state = tx.init(PARAMS)
    assert_equal(optax.tree.map_params(tx, lambda v: v, state), state)


def test_map_params_maps_what_is_like_params_and_nothing_else():
    tx = eagc(2, preset="article", energy={"progress": 1.0, "fisher": 1.0})
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda v: v + 7, state)
    assessed, gate = marked[0], marked[1]
    expected = jax.tree.map(lambda p: jnp.full(p.shape, 7.0), PARAMS)
    assert_equal(assessed.direction, expected)
    assert_equal(assessed.second_moment, expected)
    assert_equal(assessed.energies, state[0].energies)
    assert_equal(gate, state[1])


# --- one step after another ---------------------------------------------------------


# The last of these compile once more each.
OF_EVERY = ("output", "state", "scan", "none_leaves")
OF_SOME = ("vmap", "donation", "x64", "serialization")
CLOSE = {"params": PARAMS, "tolerance": 1e-5}


def test_what_jax_does_with_it(tx):
    some = tx in [configured(name) for name in FEW]
    names = OF_EVERY + OF_SOME if some else OF_EVERY
    compiled = optax.GradientTransformationExtraArgs(*jitted(tx))
    assert testing.assert_transformation(compiled, 2, names, **CLOSE).left_out == {}


def test_without_jit_and_without_leaves():
    tx, small = configured("tensor"), {**CLOSE, "params": SMALL}
    testing.assert_transformation(tx, 2, ["jit", "empty_tree"], steps=2, **small)


def test_unexpected_arguments_are_ignored(some_tx):
    args = make_gradients(), jitted(some_tx)[0](PARAMS), PARAMS
    more = functools.partial(some_tx.update, value=np.float32(1), unknown=3)
    # The same program, hence the same numbers.
    assert str(jax.make_jaxpr(more)(*args)) == str(
        jax.make_jaxpr(some_tx.update)(*args)
    )


def test_equal_gradients_give_their_weighted_sum(tx):
    gradients = jax.tree.map(lambda g: np.stack([g[0], g[0]]), make_gradients())
    init, update = jitted(tx)
    out, _ = update(gradients, init(PARAMS), PARAMS)
    total = 3.0 if tx is configured("channel") else 2.0  # weights (1, 2)
    assert_close(out, jax.tree.map(lambda g: g[0] * total, gradients))


# --- dtypes -------------------------------------------------------------------------


def test_update_has_the_leaf_dtype_and_the_state_is_float32(tx):
    params = make_params(jnp.float32, jnp.bfloat16, jnp.float16)
    out, state = run(tx, steps=2, params=params)
    assert types(out) == types(params)
    assert types(state) == types(jitted(tx)[0](params))
    dtypes = {str(x.dtype) for x in jax.tree.leaves(state)}
    assert dtypes == {"float32", "int32"}
    wide, _ = run(tx, steps=2)
    for leaf, reference in zip(
        jax.tree.leaves(out), jax.tree.leaves(wide), strict=True
    ):
        np.testing.assert_allclose(np.float32(leaf), reference, atol=0.1)


def test_float64_loses_no_precision():
    with jax.enable_x64(True):
        params = {"w": np.zeros(1)}
        gradients = {"w": np.array([[1.0], [1.0 + 1e-12]])}
        tx = eagc(2, preset="article", granularity="tensor", warmup_steps=0)
        out, _ = jax.jit(lambda g: tx.update(g, tx.init(params), params))(gradients)
        assert abs(float(out["w"][0]) - (2 + 1e-12)) < 1e-15


# --- donation -----------------------------------------------------------------------


def pointers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def test_no_two_leaves_of_a_state_share_a_buffer(tx):
    init, update = jitted(tx)
    for fresh in (tx.init, init):
        state = fresh(PARAMS)
        found = pointers(state) + pointers(PARAMS)
        assert len(found) == len(set(found))
    _, state = update(make_gradients(), state, PARAMS)
    assert len(pointers(state)) == len(set(pointers(state)))


# --- training -----------------------------------------------------------------------


def parabola(params):
    """Two parabolas of different steepness; their sum is least in between."""
    w = params["w"]
    return jnp.stack([jnp.sum((w - 1) ** 2), 10 * jnp.sum((w + 1) ** 2)])


def rosenbrock(params):
    """The two terms of Rosenbrock's function: both are 0 at (1, 1)."""
    x, y = params["w"]
    return jnp.stack([(1 - x) ** 2, 100 * (y - x**2) ** 2])


def train(tx, problem, steps=3000):
    optimizer = optax.chain(tx, optax.adamw(2e-2, weight_decay=1e-6))

    def body(carry, _):
        params, state = carry
        losses, gradients = value_and_grads(problem)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), losses

    @jax.jit
    def program(params):
        carry = params, optimizer.init(params)
        return jax.lax.scan(body, carry, None, length=steps)

    (params, _), losses = program({"w": np.float32([-0.5, 0.8])})
    assert np.all(np.isfinite(losses))
    return params["w"], np.sum(losses, axis=1)


@pytest.mark.parametrize("name", ["default", "tensor"])
def test_trains_rosenbrock_in_a_scan(name):
    w, losses = train(configured(name), rosenbrock)
    assert float(losses[-1]) < 1e-3
    np.testing.assert_allclose(w, [1.0, 1.0], atol=0.07)  # what that loss allows


@pytest.mark.slow
def test_trains_with_every_configuration(tx):
    w, losses = train(tx, rosenbrock)
    assert float(losses[-1]) < 1e-3
    np.testing.assert_allclose(w, [1.0, 1.0], atol=0.07)  # what that loss allows
    w, losses = train(tx, parabola)
    # Between the two minima: no objective's own, and none is given up.
    assert np.all((w > -1.0) & (w < 1.0))
    assert float(losses[-1]) < float(losses[0])


# --- Optax --------------------------------------------------------------------------


def test_first_in_a_chain():
    plain = configured("default")
    gated, _ = run(plain, steps=1)
    updates, _ = run(optax.chain(plain, optax.sgd(0.5)), steps=1)
    assert_close(updates, jax.tree.map(lambda g: -0.5 * np.asarray(g), gated))


def test_named_chain_gives_access_by_name():
    tx = optax.named_chain(
        ("coordinate", configured("default")), ("adam", optax.adam(1e-3))
    )
    _, state = run(tx, steps=2)
    assert diagnostics.report(state["coordinate"]).count == 2
    assert_equal(optax.tree.get(state, "gates"), state["coordinate"][1].gates)


def partitioned(optimizer=optax.identity):
    groups = {
        "heads": optax.chain(
            eagc(2, preset="article", granularity="tensor"), optimizer()
        ),
        "trunk": optax.chain(
            eagc(2, preset="article", granularity="channel"), optimizer()
        ),
        "plain": optax.chain(sum_objectives(), optimizer()),
        "empty": optax.chain(
            eagc(2, preset="article", granularity="global"), optimizer()
        ),
    }
    labels = {
        "conv": "trunk",
        "dense": {"kernel": "heads", "bias": "plain"},
        "none": None,
    }
    return optax.partition(groups, labels)


def test_partition_with_a_granularity_in_each_group():
    tx = partitioned()
    out, state = run(tx)
    assert types(out) == types(PARAMS)
    assert types(state) == types(jax.eval_shape(tx.init, PARAMS))
    report = diagnostics.report(state)
    assert report.layers == ("conv", "dense/kernel")
    assert report.count == 3
    # Each group is coordinated as if it were alone.
    alone = {"conv": PARAMS["conv"]}
    init, update = jitted(configured("default"))
    expected = init(alone)
    for step in range(3):
        gradients = {"conv": make_gradients(step)["conv"]}
        conv, expected = update(gradients, expected, alone)
    np.testing.assert_allclose(out["conv"], conv["conv"], rtol=1e-6)
    np.testing.assert_allclose(
        report.gates[:, 0], diagnostics.report(expected).gates[:, 0], rtol=1e-6
    )
    np.testing.assert_allclose(
        out["dense"]["bias"],
        make_gradients(2)["dense"]["bias"].sum(axis=0),
        rtol=1e-5,
    )


def test_partition_map_params_and_counts():
    tx = partitioned(functools.partial(optax.trace, 0.9))
    _, state = run(tx, steps=1)
    assert_equal(optax.tree.map_params(tx, lambda v: v, state), state)
    bad = make_gradients()
    bad["dense"]["kernel"][1] = np.nan
    _, state = jitted(tx)[1](bad, state, PARAMS)
    assert diagnostics.report(state).nonfinite_count.tolist() == [0, 1]


STATIC = ("num_objectives", "preset", "warmup_steps", "granularity", "energy")


def test_inject_hyperparams_changes_the_floor_while_running():
    make = optax.inject_hyperparams(eagc, static_args=STATIC)
    tx = make(2, preset="article", granularity="tensor", floor=0.0, warmup_steps=0)
    init, update = jitted(tx)
    state = init(PARAMS)
    gradients = make_gradients()
    out, after = update(gradients, state, PARAMS)
    tx = eagc(2, preset="article", granularity="tensor", floor=0.0, warmup_steps=0)
    expected, _ = run(tx, steps=1)
    assert_close(out, expected)

    state.hyperparams["floor"] = jnp.float32(1)
    plain, after = update(gradients, state, PARAMS)
    assert_close(plain, jax.tree.map(lambda g: g.sum(axis=0), gradients))
    assert not np.allclose(plain["conv"], out["conv"])
    update(gradients, after, PARAMS)
    assert update._cache_size() == 1
    report = diagnostics.report(after)
    np.testing.assert_allclose(report.gates, np.ones((2, 3)))


def test_inject_hyperparams_with_a_schedule_of_the_temperature():
    make = optax.inject_hyperparams(eagc, static_args=STATIC)
    options = {"warmup_steps": 0, "smoothing": 0.0, "floor": 0.0}
    schedule = optax.piecewise_constant_schedule(0.5, {2: 4.0})
    tx = make(2, preset="article", temperature=schedule, **options)
    init, update = jitted(tx)
    state = init(SMALL)
    found = []
    for _ in range(4):
        out, state = update(make_gradients(0, SMALL), state, SMALL)
        found.append(out)
    assert update._cache_size() == 1
    for pair, temperature in ((found[:2], 0.5), (found[2:], 2.0)):
        tx = eagc(2, preset="article", temperature=temperature, **options)
        expected, _ = run(tx, steps=1, params=SMALL)
        for out in pair:
            assert_close(out, expected)


@pytest.mark.parametrize("name", ["tensor", "memoryless"])
def test_inject_hyperparams_equals_none(name):
    options = dict(CONFIGURATIONS[name])
    static = ("num_objectives", *(o for o in options if callable(options[o])))
    make = optax.inject_hyperparams(eagc, static_args=static)
    tx = make(2, preset="article", **options)
    out, state = run(tx)
    assert types(state) == types(jax.eval_shape(tx.init, PARAMS))
    expected, reference = run(configured(name))
    assert_close(out, expected)
    assert_close(state.inner_state[1].gates, reference[1].gates)


def test_before_multi_steps():
    every = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    tx = optax.chain(eagc(2, preset="article"), every)
    init, update = jitted(tx)
    state = init(PARAMS)
    found = []
    for step in range(4):
        out, state = update(make_gradients(step), state, PARAMS)
        found.append(out)
    # The coordinated updates are averaged.
    init, inner = jitted(configured("default"))
    memory = init(PARAMS)
    coordinated = []
    for step in range(4):
        out, memory = inner(make_gradients(step), memory, PARAMS)
        coordinated.append(out)
    found, coordinated = jax.device_get((found, coordinated))
    assert all(not leaf.any() for leaf in jax.tree.leaves((found[0], found[2])))
    mean = jax.tree.map(lambda a, b: -(a + b) / 2, *coordinated[2:])
    assert_close(found[3], mean)
    assert diagnostics.report(state).count == 4


@pytest.mark.parametrize("name", ["default", "global"])
def test_before_apply_if_finite(name):
    """A NaN in one objective makes the whole update NaN: it is not taken."""
    tx = optax.chain(
        configured(name),
        optax.apply_if_finite(optax.sgd(1.0), max_consecutive_errors=5),
    )
    init, update = jitted(tx)
    good = make_gradients()
    bad = make_gradients()
    bad["dense"]["kernel"][1, 0, 0] = np.inf
    _, state = update(good, init(PARAMS), PARAMS)
    out, after = update(bad, state, PARAMS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(out))
    assert optax.tree.get(after, "total_notfinite") == 1
    report = diagnostics.report(after)
    assert report.nonfinite_count.tolist() == [0, 1]
    # Nothing was poisoned: the next step is the one that follows the first.
    assert_equal(update(good, after, PARAMS)[0], update(good, state, PARAMS)[0])


# --- Flax NNX -----------------------------------------------------------------------


class Network(nnx.Module):
    """A trunk with BatchNorm and two heads."""

    def __init__(self, rngs):
        self.trunk = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(4, 2, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        hidden = nnx.relu(self.norm(self.trunk(x)))
        return [head(hidden) for head in self.heads]


make_network = nnx.jit(lambda: Network(nnx.Rngs(0)))  # one compilation, not fifty


def losses_of(outputs, y):
    first, second = outputs
    return jnp.stack([jnp.mean((first - y) ** 2), jnp.mean(jnp.abs(second + y))])


def nnx_step(model, optimizer, x, y):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def losses_fn(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        losses = losses_of(merged(x), y)
        return losses, nnx.state(merged, nnx.Not(nnx.Param))

    (losses, rest), gradients = value_and_grads(losses_fn, has_aux=True)(params)
    nnx.update(model, rest)
    optimizer.update(model, gradients)
    return losses


BATCH = np.random.default_rng(3).normal(size=(8, 3)), np.ones((8, 2))
BATCH = tuple(x.astype(np.float32) for x in BATCH)


@pytest.mark.parametrize(
    ("wrap", "name"), [("nnx.jit", "default"), ("jax.jit", "tensor")]
)
def test_nnx_optimizer(wrap, name):
    model = make_network()
    tx = optax.chain(configured(name), optax.adam(1e-2))
    optimizer = nnx.jit(lambda model: nnx.Optimizer(model, tx, wrt=nnx.Param))(model)
    if wrap == "nnx.jit":
        step = nnx.jit(nnx_step, donate_argnames=("model", "optimizer"))
        losses = [step(model, optimizer, *BATCH) for _ in range(4)]
    else:
        graphdef, state = nnx.split((model, optimizer))

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, x, y):
            model, optimizer = nnx.merge(graphdef, state)
            losses = nnx_step(model, optimizer, x, y)
            return nnx.state((model, optimizer)), losses

        losses = []
        for _ in range(4):
            state, found = step(state, *BATCH)
            losses.append(found)
        assert step._cache_size() == 1
        nnx.update((model, optimizer), state)
    assert np.sum(losses[-1]) < np.sum(losses[0])
    assert np.any(np.asarray(model.norm.mean[...]) != 0)  # BatchNorm's average moved

    report = diagnostics.report(optimizer.opt_state)
    assert report.count == 4
    assert set(report.layers) == {
        "trunk/kernel", "trunk/bias", "norm/scale", "norm/bias",
        *(f"heads/{k}/{what}" for k in range(2) for what in ("kernel", "bias")),
    }  # fmt: skip
    own = report.layers.index("heads/0/kernel")
    np.testing.assert_array_equal(report.gates[:, own], [1.0, 1.0])
    assert report.gradient_rms[1, report.leaves.index("heads/0/kernel")] == 0
    gates = optax.tree.get(nnx.as_pure(optimizer.opt_state), "gates")
    np.testing.assert_allclose(
        np.reshape(gates["trunk/kernel"], (2, -1)).mean(axis=1),
        report.gates[:, report.layers.index("trunk/kernel")],
        rtol=1e-6,
    )


def test_nnx_equals_plain_arrays():
    model = make_network()
    tx = optax.chain(eagc(2, preset="article", warmup_steps=0), optax.sgd(0.1))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    pure = nnx.to_pure_dict(params)

    def losses_fn(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return losses_of(merged(BATCH[0]), BATCH[1])

    @jax.jit
    def step(params, pure):
        _, gradients = value_and_grads(losses_fn)(params)
        updates, _ = tx.update(nnx.to_pure_dict(gradients), tx.init(pure), pure)
        return optax.apply_updates(pure, updates)

    expected = step(params, pure)

    optimizer = nnx.jit(lambda model: nnx.Optimizer(model, tx, wrt=nnx.Param))(model)
    nnx.jit(nnx_step)(model, optimizer, *BATCH)
    found = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_close(found, expected)


# --- Linen and Equinox --------------------------------------------------------------


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = linen.relu(linen.Dense(4)(x))
        return [linen.Dense(2)(hidden) for _ in range(2)]


def test_linen():
    x, y = BATCH
    model = LinenNetwork()
    params = jax.jit(model.init)(jax.random.key(0), x)
    tx = optax.chain(eagc(2, preset="article"), optax.adam(1e-2))
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state):
        losses, gradients = value_and_grads(lambda p: losses_of(model.apply(p, x), y))(
            params
        )
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, losses

    history = []
    for _ in range(5):
        params, state, losses = step(params, state)
        history.append(np.sum(losses))
    assert history[-1] < history[0]
    assert step._cache_size() == 1
    assert "params/Dense_0/kernel" in diagnostics.report(state).layers


class EquinoxNetwork(eqx.Module):
    trunk: eqx.nn.Linear
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    steps: jax.Array  # an integer: not trained
    name: str = eqx.field(static=True)

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.trunk = eqx.nn.Linear(3, 4, use_bias=False, key=keys[0])
        self.first = eqx.nn.Linear(4, 2, key=keys[1])
        self.second = eqx.nn.Linear(4, 2, key=keys[2])
        self.steps = jnp.zeros((), jnp.int32)
        self.name = "network"

    def __call__(self, x):
        hidden = jax.nn.relu(self.trunk(x))
        return [self.first(hidden), self.second(hidden)]


def test_equinox_with_none_leaves_and_its_output_first_layout():
    x, y = BATCH
    model = eqx.filter_jit(EquinoxNetwork)(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    assert params.steps is None
    assert params.trunk.bias is None
    tx = optax.chain(
        eagc(2, preset="article", granularity=output_first, floor=0.0), optax.adam(1e-2)
    )
    state = jax.jit(tx.init)(params)

    def losses_fn(params):
        return losses_of(jax.vmap(eqx.combine(params, static))(x), y)

    @eqx.filter_jit
    def step(params, state):
        losses, gradients = value_and_grads(losses_fn)(params)
        updates, state = tx.update(gradients, state, params)
        return eqx.apply_updates(params, updates), state, losses

    history = []
    for _ in range(5):
        params, state, losses = step(params, state)
        history.append(np.sum(losses))
    assert history[-1] < history[0]
    gates = optax.tree.get(state, "gates")
    assert gates["trunk/weight"].shape == (2, 4, 1)  # one for each of 4 output units
    assert gates["first/bias"].shape == (2, 2)
    assert "trunk/bias" not in gates


# --- checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensor"])
def test_orbax_restores_every_bit(tmp_path, name):
    tx = optax.chain(configured(name), optax.adam(1e-2))
    params = {k: v for k, v in PARAMS.items() if k != "none"}
    _, state = run(tx, params=params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"params": params, "opt_state": state})
    target = jax.eval_shape(lambda: {"params": params, "opt_state": tx.init(params)})
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state", target)["opt_state"]
    assert_equal(restored, state)
    assert types(restored) == types(state)
    update = jitted(tx)[1]
    gradients = make_gradients(9, params)
    assert_equal(update(gradients, restored, params), update(gradients, state, params))


# --- other machines -----------------------------------------------------------------


def test_lowers_for_other_platforms(tx):
    """Every primitive has a rule there; that says nothing of speed or numerics."""
    state = jax.eval_shape(tx.init, PARAMS)
    gradients = jax.eval_shape(make_gradients)
    traced = jax.jit(tx.update).trace(gradients, state, PARAMS)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "func.func public @main" in text


def test_exports_for_other_platforms():
    """One artefact for three platforms, with K gradients and an optimizer in it."""
    tx = optax.chain(
        eagc(2, preset="article", **CONFIGURATIONS["tensor"]), optax.adamw(1e-3)
    )
    params = {"w": np.float32([0.5, -2])}

    def step(params, state):
        _, gradients = value_and_grads(parabola)(params)
        updates, state = tx.update(gradients, state, params)
        return jax.tree.leaves((optax.apply_updates(params, updates), state))

    state = jax.jit(tx.init)(params)
    leaves, structure = jax.tree.flatten((params, state))

    def flat(*leaves):
        return step(*jax.tree.unflatten(structure, leaves))

    exported = jax.export.export(jax.jit(flat), platforms=["cpu", "tpu", "cuda"])(
        *leaves
    )
    assert exported.platforms == ("cpu", "tpu", "cuda")
    for found, expected in zip(
        exported.call(*leaves), jax.jit(flat)(*leaves), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- the order of mean and coordination ---------------------------------------------


def test_accumulated_gradients_are_averaged_before_not_after():
    """Coordinating each microbatch is another map than coordinating their mean."""
    tx = soft_gate(2, granularity="tensor", floor=0.0, smoothing=0.0, warmup_steps=0)
    tx = optax.chain(tx, sum_objectives())
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    init, update = jitted(tx)
    state = init(params)
    micro = [make_gradients(k, params) for k in range(4)]
    mean = jax.tree.map(lambda *g: sum(g) / 4, *micro)
    before = update(mean, state, params)[0]
    each = jax.device_get([update(g, state, params)[0] for g in micro])
    after = jax.tree.map(lambda *u: sum(u) / 4, *each)
    assert max(np.max(np.abs(before[k] - after[k])) for k in params) > 0.01


def test_stacked_trees_of_separate_backward_passes_are_the_same_updates():
    trees = [jax.tree.map(lambda g, k=k: g[k], make_gradients()) for k in range(2)]
    assert_equal(stack_objectives(trees), make_gradients())
