"""What holds for every factory alike: its signature, and that its state survives."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from eagc_jax import aggregators, gram_matrix
from eagc_jax.aggregators._base import from_weighting
from eagc_jax.aggregators._signature import shows_options_of

K = 5  # krum needs that many
SHAPES = {"kernel": (4, 3), "bias": (3,)}
PARAMS = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
OTHERS = {"from_weighting", "accumulate_objectives"}
OPTIONS = {  # state that the defaults don't have, and what has no default
    "upgrad": {
        "gram_smoothing": 0.5,
        "weight_smoothing": 0.5,
        "granularity": "channel",
        "recompute_every": 2,
    },
    "pcgrad": {"granularity": "tensor"},
    "gradnorm": {"layers": "kernel"},
}
FACTORIES = {
    name: getattr(aggregators, name)
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name)) and name not in OTHERS
}


def gradients(step, number=K):
    rng = np.random.default_rng(step)
    return {
        name: rng.normal(size=(number, *shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def step_of(tx, name="upgrad"):
    def step(state, updates, losses):
        if name == "momentum_conflict_free":  # one objective's gradient a step
            updates = jax.tree.map(lambda g: g[0], updates)
        return tx.update(updates, state, PARAMS, value=losses)

    return jax.jit(step)


@pytest.mark.parametrize("name", FACTORIES)
def test_signatures_name_every_option(name):
    parameters = inspect.signature(FACTORIES[name]).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    assert next(iter(parameters)) == "num_objectives"
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert "nonfinite" in parameters or name == "momentum_conflict_free"
    # Passing what the signature shows changes nothing, and is not refused.
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    FACTORIES[name](K, **{**defaults, **OPTIONS.get(name, {})})


def test_a_signature_shows_a_default_that_differs():
    assert (
        inspect.signature(aggregators.nash_mtl).parameters["rescale"].default
        == "norm_of_mean"
    )

    @shows_options_of(from_weighting, seed=3)
    def mine(num_objectives, *, rescale="sum", **options):
        return num_objectives, rescale, options

    parameters = inspect.signature(mine).parameters
    assert parameters["seed"].default == 3
    assert parameters["rescale"].default == "sum"  # its own stays
    assert mine(2, seed=4) == (2, "sum", {"seed": 4})


@jax.jit
def of_pair(updates):
    """Plain UPGrad's update of two objectives: a closed form, little to compile."""
    tx = aggregators.upgrad(2)
    return tx.update(updates, tx.init(PARAMS))[0]


def test_schedules_of_options_are_injected():
    static = ("num_objectives", "recompute_every", "seed")
    factory = optax.inject_hyperparams(aggregators.upgrad, static_args=static)
    schedule = optax.piecewise_constant_schedule(0.9, {1: 0.0})
    tx = factory(2, weight_smoothing=schedule)
    step = step_of(tx)
    state = tx.init(PARAMS)
    for index in range(3):
        found, state = step(state, gradients(index, 2), None)
    assert state.hyperparams["weight_smoothing"] == 0
    expected = of_pair(gradients(2, 2))  # with a decay of 0 nothing older is left
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    "option",
    ["weight_smoothing", pytest.param("gram_smoothing", marks=pytest.mark.slow)],
)
def test_an_average_of_equal_steps_is_that_step_whatever_the_decays(option):
    """Counting steps would correct for one constant decay only."""
    static = ("num_objectives", "recompute_every", "seed")
    factory = optax.inject_hyperparams(aggregators.upgrad, static_args=static)
    schedule = optax.piecewise_interpolate_schedule(
        "linear", 0.5, {1: 1.9, 2: 0.7, 3: 1.4}
    )
    tx = factory(2, **{option: schedule})
    step, state = step_of(tx), tx.init(PARAMS)
    expected = of_pair(gradients(0, 2))
    for _ in range(4):
        found, state = step(state, gradients(0, 2), None)
        for name in SHAPES:  # a few roundings of the mass, and the solve's
            np.testing.assert_allclose(
                found[name], expected[name], rtol=2e-5, atol=2e-6
            )
    average = state.inner_state.gram_average
    if option == "gram_smoothing":  # whose length the weights don't show
        matrix = average.scale[0] ** 2 * average.matrix[0] / average.mass
        np.testing.assert_allclose(matrix, gram_matrix(gradients(0, 2)), rtol=1e-5)


def test_recompute_every_must_be_static_under_inject_hyperparams():
    factory = optax.inject_hyperparams(
        aggregators.upgrad, static_args=("num_objectives",)
    )
    with pytest.raises(ValueError, match=r"recompute_every .* name it in static_args"):
        factory(K).init(PARAMS)


COUNTERS = ("count", "visits", "nonfinite_count", "fallbacks")


def counted_out(state):
    """The state after as many steps as an int32 can count."""

    def last(path, leaf):
        name = getattr(path[-1], "name", None)
        return (
            jnp.full_like(leaf, jnp.iinfo(jnp.int32).max) if name in COUNTERS else leaf
        )

    return jax.tree_util.tree_map_with_path(last, state)


@pytest.mark.slow
def test_every_state_is_restored_bitwise(tmp_path):
    """Two steps, saved, restored by orbax and by pickle; then the same third step.

    With the steps at hand: no counter wraps.
    """
    losses = jnp.linspace(1.0, 2.0, K)
    made, states, steps, seen = {}, {}, {}, set()
    for name, factory in FACTORIES.items():
        made[name] = factory(K, **OPTIONS.get(name, {}))
        state = made[name].init(PARAMS)
        like = jax.tree.structure(state), str(jax.eval_shape(lambda s=state: s))
        if like in seen:  # one of each structure: others have the same arrays
            del made[name]
            continue
        seen.add(like)
        # Compiled once, wherever the state comes from.
        steps[name] = step_of(made[name], name).lower(state, gradients(0), losses)
        steps[name] = steps[name].compile()
        for index in range(2):
            _, state = steps[name](state, gradients(index), losses / (index + 1))
        states[name] = state
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
    target = jax.eval_shape(lambda: {n: tx.init(PARAMS) for n, tx in made.items()})
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "states", target)
    pickled = pickle.loads(pickle.dumps(jax.device_get(states)))
    for name, state in states.items():
        expected = steps[name](state, gradients(2), losses)
        found, after = steps[name](counted_out(state), gradients(2), losses)
        for leaf in jax.tree.leaves(after):
            assert leaf.dtype != jnp.int32 or jnp.all(leaf >= 0), name
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(found)), name
        for other in (restored[name], pickled[name]):
            assert jax.tree.structure(other) == jax.tree.structure(state)
            found = steps[name](other, gradients(2), losses)
            for a, b in zip(
                jax.tree.leaves((other, found)),
                jax.tree.leaves((state, expected)),
                strict=True,
            ):
                assert a.dtype == b.dtype, name
                np.testing.assert_array_equal(a, b, err_msg=name)
