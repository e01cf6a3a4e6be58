"""Wrong use raises ValueError while tracing, and says what was found and what to do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import (
    assess_energy,
    diagnostics,
    eagc,
    minimum_temperature,
    soft_gate,
    stack_objectives,
    sum_objectives,
    unstack_objectives,
    value_and_grads,
    value_and_grads_at_feature,
    value_and_grads_by_batch,
)


def ones(shape, dtype=np.float32):
    return np.ones(shape, dtype)


PARAMS = {"layer": {"kernel": ones((3, 4)), "bias": ones(4)}}


def gradients(number=2):
    return jax.tree.map(lambda p: np.stack([p] * number), PARAMS)


def with_kernel(value):
    return {"layer": {"kernel": value, "bias": gradients()["layer"]["bias"]}}


def raises(*words):
    """Expects a ValueError whose message has all of these words, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


def update(tx, updates, params=PARAMS, init=PARAMS, **extra_args):
    """What ``update`` gives when traced: nothing is ever computed."""
    state = jax.eval_shape(tx.init, init)
    abstract = jax.eval_shape(lambda: updates)
    return jax.eval_shape(
        lambda u, s: tx.update(u, s, params, **extra_args), abstract, state
    )


# --- arguments, at once -------------------------------------------------------------

GATED = functools.partial(eagc, preset="article")
FACTORIES = [eagc, GATED, assess_energy, soft_gate]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("number", [0, -1, 1.5, "two", None, (2,)])
def test_number_of_objectives(factory, number):
    with raises("num_objectives", repr(number)):
        factory(number)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], ["weights", "2 objectives", "(1,)"]),
        ([1.0, 2.0, 3.0], ["weights", "2 objectives", "(3,)"]),
        (1.0, ["weights", "shape (2,)", "()"]),
        ([1.0, -1.0], ["weights", ">= 0", "-1.0"]),
        ([1.0, float("nan")], ["weights", "finite", "nan"]),
        ([1.0, float("inf")], ["weights", "finite", "inf"]),
        ([0.0, 0.0], ["weights", "all be zero"]),
    ],
)
def test_weights(factory, weights, words):
    with raises(*words):
        factory(2, weights=weights)
    with raises(*words):
        factory(2, weights=np.array(weights))


@pytest.mark.parametrize("weights", [[1.0, -1.0], [float("nan"), 1.0], [0.0, 0.0]])
def test_weights_of_sum_objectives(weights):
    with raises("weights"):
        sum_objectives(weights)


NAN = float("nan")


@pytest.mark.parametrize("factory", [GATED, soft_gate])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", NAN),
        ("temperature", np.ones(2)),
        ("floor", -0.1),
        ("floor", 1.1),
        ("floor", NAN),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
        ("hysteresis", -1.0),
        ("slew", 0.0),
        ("slew", -1.0),
        ("warmup_steps", -1),
        ("descent_guard", -0.1),
        ("descent_guard", 1.1),
        ("granularity", "layer"),
    ],
)
def test_arguments_of_the_gate(factory, argument, value):
    with raises(argument):
        factory(2, **{argument: value})


@pytest.mark.parametrize("factory", [GATED, assess_energy])
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("energy", "loudness", ["energy", "magnitude", "'loudness'"]),
        ("energy", {}, ["energy", "mapping"]),
        ("energy", {"loudness": 1.0}, ["energy", "'loudness'"]),
        ("energy", {"fisher": -1.0}, ["'fisher'", ">= 0", "-1.0"]),
        ("energy", {"fisher": NAN}, ["'fisher'", ">= 0", "nan"]),
        ("granularity", "layer", ["granularity", "channel", "'layer'"]),
        ("scale", "local", ["scale", "objective", "'local'"]),
        ("nonfinite", "ignore", ["nonfinite", "skip_objective", "'ignore'"]),
        ("direction_decay", 1.0, ["direction_decay", "[0, 1)", "1.0"]),
        ("moment_decay", -0.5, ["moment_decay", "[0, 1)", "-0.5"]),
        ("alignment_floor", 0.0, ["alignment_floor", "(0, 1]", "0.0"]),
        ("alignment_floor", 1.5, ["alignment_floor", "(0, 1]", "1.5"]),
        ("eps", 0.0, ["eps", "positive", "0.0"]),
        ("eps", float("inf"), ["eps", "finite", "inf"]),
    ],
)
def test_arguments_of_the_assessment(factory, argument, value, words):
    with raises(*words):
        factory(2, **{argument: value})


@pytest.mark.parametrize(
    ("factory", "argument"),
    [(soft_gate, "granularity"), (assess_energy, "energy")],
)
def test_what_may_be_none_for_eagc_alone(factory, argument):
    with raises(argument, "None"):
        factory(2, **{argument: None})
    GATED(2, **{argument: None})  # the preset's own


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0), (1.0, -1.0), (1.0, 1.0, 2.0), (1.0, 1.0, -0.1)]
)
def test_arguments_of_minimum_temperature(arguments):
    with raises("must"):
        minimum_temperature(*arguments)


# --- updates, when traced -----------------------------------------------------------

TRANSFORMATIONS = {
    "eagc": lambda: eagc(2, preset="article"),
    "assess_energy": lambda: assess_energy(2),
    "soft_gate": lambda: soft_gate(2),
    "sum_objectives": lambda: sum_objectives([1.0, 1.0]),
}


@pytest.fixture(params=TRANSFORMATIONS)
def tx(request):
    return TRANSFORMATIONS[request.param]()


def test_a_missing_objective_axis(tx):
    with raises("leaf 'layer/", "shape", ", *param.shape)", "value_and_grads"):
        update(tx, PARAMS)
    with raises("'layer/kernel'", "()", "*param.shape"):
        update(tx, with_kernel(ones(())))


def test_another_number_of_objectives(tx):
    with raises("3", "(2,"):
        update(tx, gradients(3))
    with raises("'layer/kernel'", "(3, 3, 4)", "(2, *param.shape)"):
        update(tx, with_kernel(ones((3, 3, 4))))


def test_a_leaf_of_another_shape_than_its_parameter(tx):
    with raises("'layer/kernel'", "(2, 4, 3)", "(2, 3, 4)"):
        update(tx, with_kernel(ones((2, 4, 3))))


def test_trees_that_differ_from_params(tx):
    with raises("updates and params", "lacks", "'layer/bias'"):
        update(tx, {"layer": {"kernel": ones((2, 3, 4))}})
    updates = gradients()
    updates["more"] = ones((2, 1))
    with raises("updates and params", "'more'"):
        update(tx, updates)


def test_integer_leaves(tx):
    with raises("'layer/kernel'", "int32", "Partition"):
        update(tx, with_kernel(ones((2, 3, 4), jnp.int32)))


@pytest.mark.parametrize("name", ["eagc", "assess_energy", "soft_gate"])
def test_trees_that_differ_from_the_state(name):
    tx = TRANSFORMATIONS[name]()
    with raises("updates and state", "lacks", "'old'", "init again"):
        update(tx, gradients(), init={**PARAMS, "old": ones(2)})
    with raises("updates and state", "'layer/"):
        update(tx, gradients(), init={"layer": {"kernel": ones((3, 4))}})
    with raises("updates and state", "'layer/"):
        update(tx, gradients(), init={})


@pytest.mark.parametrize("name", ["eagc", "assess_energy", "soft_gate"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_without_params_a_missing_axis_does_not_broadcast_into_the_state(
    name, granularity
):
    """The parameter has K entries: (2,) reads as K scalars, or as one gradient."""
    factory = {"eagc": eagc, "assess_energy": assess_energy, "soft_gate": soft_gate}
    tx = factory[name](2, granularity=granularity)
    with raises("'w'", "(2,)", "(2, 1)", "objective axis"):
        update(tx, {"w": ones(2)}, params=None, init={"w": ones(2)})


def test_without_params_a_remembering_gate_per_element_sees_it_too():
    tx = eagc(2, preset="article", granularity="element")
    with raises("'w'", "(2,)", "(2, 2)"):
        update(tx, {"w": ones(2)}, params=None, init={"w": ones(2)})


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_parameter_that_changed_its_shape(granularity):
    tx = eagc(2, preset="article", granularity=granularity)
    with raises("leaf", "state", "init"):
        update(tx, {"w": ones((2, 3))}, params=None, init={"w": ones((3, 3))})


@pytest.mark.parametrize("energy", ["sensitivity", "snip", {"sensitivity": 0.5}])
def test_sensitivity_needs_params(energy):
    with raises("'sensitivity'", "params", "update(updates, state, params)"):
        update(eagc(2, preset="article", energy=energy), gradients(), params=None)


def test_energies_that_need_a_keyword_argument():
    tx = eagc(2, preset="article", energy="fisher", moment_decay=None)
    with raises("'fisher'", "second_moment", "second_moment=..."):
        update(tx, gradients())
    tx = eagc(2, preset="article", energy="exploratory", direction_decay=None)
    with raises("'exploratory'", "direction", "direction=..."):
        update(tx, gradients())
    with raises("'layer/bias'", "direction", "(2, 4)", "(4,)"):
        update(tx, gradients(), direction=gradients())
    with raises("updates and direction", "lacks ['other']"):
        update(tx, gradients(), direction={**PARAMS, "other": ones(1)})


GRANULARITIES = ["global", "tensor", "channel", "element"]


@pytest.mark.parametrize("assessed", GRANULARITIES)
@pytest.mark.parametrize("gated", GRANULARITIES)
def test_one_granularity_for_both_stages(assessed, gated):
    tx = optax.chain(
        assess_energy(2, granularity=assessed), soft_gate(2, granularity=gated)
    )
    if assessed == gated:
        update(tx, gradients())
        return
    with raises("same granularity"):
        update(tx, gradients())


def test_a_granularity_function_that_names_an_axis_too_many():
    tx = eagc(2, preset="article", granularity=lambda path, shape: (0, 1))
    with raises("granularity", "(0, 1)", "'layer/bias'", "(4,)"):
        update(tx, gradients())


def test_weights_of_sum_objectives_for_another_number():
    with raises("weights", "2 objectives", "(3,)"):
        update(sum_objectives([1.0, 1.0, 1.0]), gradients())


def test_number_of_objectives_must_be_static_under_inject_hyperparams():
    with raises("num_objectives", "static_args"):
        jax.eval_shape(optax.inject_hyperparams(eagc)(2).init, PARAMS)


def test_errors_are_raised_by_jit_too_and_before_anything_runs():
    ran = []

    @jax.jit
    def step(updates, state):
        jax.debug.callback(lambda: ran.append(1))
        return eagc(2, preset="article").update(updates, state, PARAMS)

    with raises("objective axis first"):
        step(PARAMS, eagc(2, preset="article").init(PARAMS))
    assert ran == []


# --- losses and trees ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses_fn", "words"),
    [
        (lambda w: w, ["(K,)", "(2, 3)", "mean or the sum"]),
        (lambda w: jnp.sum(w, axis=0)[:0], ["(K,)", "(0,)"]),
        (lambda w: (jnp.sum(w), jnp.sum(w, axis=0)), ["K scalars", "(), (3,)"]),
        (lambda w: {"a": jnp.sum(w), "b": w}, ["K scalars", "(), (2, 3)"]),
        (lambda w: (), ["K scalars", "[]"]),
        (lambda w: {}, ["K scalars", "[]"]),
        (lambda w: (1, 2), ["floating point", "int"]),
        (lambda w: jnp.sum(w, axis=1) * 1j, ["real", "complex64"]),
    ],
)
def test_losses(losses_fn, words):
    w = ones((2, 3))
    with raises(*words):
        value_and_grads(losses_fn)(w)
    with raises(*words):
        jax.jit(value_and_grads(losses_fn))(w)


@pytest.mark.parametrize("argnums", [1, -2, (0, 1), (0, 3)])
def test_argnums(argnums):
    with raises("argnums", "but 1 were given"):
        value_and_grads(lambda w: jnp.stack([w, w]), argnums=argnums)(1.0)


def test_parameters_that_are_integers():
    params = {"w": ones(2), "steps": ones((), jnp.int32)}
    with raises("'steps'", "argument 0", "int32", "floating point"):
        value_and_grads(lambda p: jnp.sum(p["w"]) * ones(2))(params)
    with raises("'steps'", "trunk_params", "int32"):
        value_and_grads_at_feature(
            lambda p: p["w"], [lambda head, z: jnp.sum(head * z)]
        )(params, ones(2))


@pytest.mark.parametrize("empty", [[], (), {}])
def test_no_loss_functions(empty):
    with raises("loss_fns", "at least one"):
        value_and_grads_by_batch(empty)
    with raises("loss_fns", "at least one"):
        value_and_grads_at_feature(lambda p: p, empty)


def test_loss_functions_that_are_not_scalar():
    with raises("loss 1", "scalar", "(2,)"):
        value_and_grads_by_batch([lambda p, b: jnp.sum(p), lambda p, b: p])(
            ones(2), [None, None]
        )
    with raises("loss 'a'", "scalar", "(2,)"):
        value_and_grads_at_feature(lambda p: p, {"a": lambda head, z: head * z})(
            ones(2), ones(2)
        )


def test_batches_that_do_not_match_the_losses():
    def loss(params, batch):
        return jnp.sum(params * batch)

    with raises("batches", "1 entries", "2 losses"):
        value_and_grads_by_batch([loss, loss])(1.0, [1.0])
    with raises("batches", "'a'", "'b'"):
        value_and_grads_by_batch({"a": loss})(1.0, {"b": 1.0})
    with raises("batches", "mapping", "'a'", "[1.0]"):
        value_and_grads_by_batch({"a": loss})(1.0, [1.0])


def test_stacking():
    with raises("at least one tree"):
        stack_objectives([])
    with raises("at least one tree"):
        stack_objectives({})
    with raises("trees[1] and trees[0]", "lacks ['b']", "has ['c']"):
        stack_objectives([{"b": 1.0}, {"c": 1.0}])
    with raises("'w'", "(3,) in trees[2]", "(2,) in trees[0]"):
        stack_objectives([{"w": ones(n)} for n in (2, 2, 3)])
    with raises("trees[1]", "structure"):
        stack_objectives([{"w": 1.0, "n": None}, {"w": 1.0}])


def test_unstacking():
    with raises("at least one leaf"):
        unstack_objectives({})
    with raises("'w'", "()"):
        unstack_objectives({"w": ones(())})
    with raises("'w'", "(3,)", "(2, *param.shape)"):
        unstack_objectives({"a": ones((2, 1)), "w": ones(3)})
    with raises("names", "1 entries", "2 objectives"):
        unstack_objectives({"w": ones(2)}, names=["only"])


# --- report -------------------------------------------------------------------------


def test_report_without_a_coordinator():
    for state in (optax.adam(0.1).init(PARAMS), (), assess_energy(2).init(PARAMS)):
        with raises("opt_state", "soft_gate", "eagc"):
            diagnostics.report(state)


def test_report_of_traced_values():
    with raises("outside of jit", "optax.tree.get"):
        jax.jit(lambda state: diagnostics.report(state).count)(
            eagc(2, preset="article").init(PARAMS)
        )


def test_report_of_a_batch_of_states():
    states = jax.tree.map(
        lambda x: np.stack([x] * 3), eagc(2, preset="article").init(PARAMS)
    )
    with raises("vmap", "jax.tree.map"):
        diagnostics.report(states)
