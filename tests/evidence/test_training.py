"""Arms at work: seeds side by side are seeds alone, and steps are what they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.evidence import arms, rules, training
from benchmarks.evidence.annealing import learning_rate_annealing
from benchmarks.evidence.task import Draw
from eagc_jax import aggregators
from tests.evidence.problems import two_wells


def by_hand(task, seed, update, steps):
    """The training loop without vmap or scan: (losses, gradients) to an update."""
    start, batches = jax.random.split(jax.random.key(seed))

    @jax.jit
    def looked_at(params, step, share):
        draw = Draw(task.data, jax.random.fold_in(batches, step), step, share)

        def losses(params):
            return jnp.stack(task.losses(params, draw))

        return losses(params), jax.jacrev(losses)(params)

    params = jax.jit(task.init)(start, task.data)
    for step in range(steps):
        found = looked_at(params, np.int32(step), np.float32(step / steps))
        params = optax.apply_updates(params, update(*found, params))
    return task.evaluate(params, task.data)


def test_seeds_side_by_side_are_seeds_alone():
    task = two_wells(optimizer=lambda steps: optax.sgd(1e-3))
    weights = np.array([1.0, 10.0])

    def update(losses, gradients, params):
        return jax.tree.map(lambda g: -1e-3 * np.tensordot(weights, g, 1), gradients)

    runs = training.Runs(task, rules.static)
    found = training.train(runs, [3, 8], np.stack([weights, weights]))
    for place, seed in enumerate((3, 8)):
        expected = by_hand(task, seed, update, task.steps)
        for name, value in expected.items():
            np.testing.assert_allclose(found.measures[name][place], value, rtol=1e-4)
    assert found.seconds > 0
    # Another run of the same seeds, from the same program, is the same.
    again = training.train(runs, [3, 8], np.stack([weights, weights]))
    np.testing.assert_array_equal(again.measures["error"], found.measures["error"])


def test_an_aggregator_gets_the_gradients_of_each_objective():
    task = two_wells(optimizer=lambda steps: optax.sgd(1e-3))
    tx = aggregators.upgrad(2)
    state = tx.init({"x": jnp.zeros(2)})
    combine = jax.jit(lambda gradients: tx.update(gradients, state)[0])

    def update(losses, gradients, params):
        return jax.tree.map(lambda g: -1e-3 * g, combine(gradients))

    found = training.train(training.Runs(task, arms.ARMS["upgrad"].build), [5])
    expected = by_hand(task, 5, update, task.steps)
    np.testing.assert_allclose(found.measures["error"][0], expected["error"], rtol=1e-4)


@pytest.mark.parametrize("look_again", [False, True])
def test_weights_from_losses_cost_one_gradient_and_are_the_methods_own(look_again):
    """The same as FAMO on the K gradients; with ``value_after``, too."""
    task = two_wells(optimizer=lambda steps: optax.sgd(1e-3))
    tx = aggregators.famo(2)
    kept = {"state": tx.init({"x": jnp.zeros(2)}), "last": None}
    combine = jax.jit(tx.update)
    losses_of = jax.jit(lambda params, draw: jnp.stack(task.losses(params, draw)))

    def update(losses, gradients, params):
        extra = {}
        if look_again:
            draw = kept["last"]
            after = np.zeros(2, np.float32) if draw is None else losses_of(params, draw)
            extra = {"value_after": after}
            number = 0 if draw is None else int(draw.step) + 1
            batches = jax.random.split(jax.random.key(5))[1]
            key = jax.random.fold_in(batches, number)
            kept["last"] = Draw(task.data, key, np.int32(number), np.float32(0))
        found, kept["state"] = combine(
            gradients, kept["state"], params, value=losses, **extra
        )
        return jax.tree.map(lambda g: -1e-3 * g, found)

    def build(task, steps):
        return rules.of_losses(task, steps, aggregators.famo(2), look_again)

    found = training.train(training.Runs(task, build), [5])
    expected = by_hand(task, 5, update, task.steps)
    np.testing.assert_allclose(found.measures["error"][0], expected["error"], rtol=1e-4)


def test_annealing_is_the_articles_formula():
    tx = learning_rate_annealing(3, decay=0.9)
    random = np.random.default_rng(0)
    leaves = {"a": random.normal(size=(3, 4)), "b": random.normal(size=(3, 2, 2))}
    grads = {name: v.astype(np.float32) for name, v in leaves.items()}
    state, advance = (
        tx.init({"a": np.zeros(4), "b": np.zeros((2, 2))}),
        jax.jit(tx.update),
    )
    flat = np.concatenate([leaves["a"], leaves["b"].reshape(3, 4)], axis=1)
    weights = np.ones(3)
    for _ in range(2):
        update, state = advance(grads, state)
        aims = np.abs(flat[0]).max() / np.abs(flat).mean(axis=1)
        weights[1:] = 0.9 * weights[1:] + 0.1 * aims[1:]
        np.testing.assert_allclose(state.weights, weights, rtol=1e-5)
        np.testing.assert_allclose(update["a"], weights @ leaves["a"], rtol=1e-4)


def test_annealing_withstands_zero_gradients():
    tx = learning_rate_annealing(2)
    update, state = tx.update({"a": jnp.zeros((2, 3))}, tx.init({"a": jnp.zeros(3)}))
    assert np.isfinite(state.weights).all()
    np.testing.assert_array_equal(update["a"], 0)


def test_a_step_has_a_cost():
    task = two_wells()
    one = training.Runs(task, arms.ARMS["upgrad"].build)
    control = training.Runs(task, rules.static)
    cost = training.relative_cost(one, control, [0, 1], rounds=2, steps=2)
    assert 0 < cost < np.inf


def test_arms_by_name():
    names = [arm.name for arm in arms.chosen(["core", "sum", "mgda"], "physics")]
    assert names[:2] == ["sum", "tuned"]
    assert names[-1] == "mgda"
    assert len(names) == len(set(names))
    assert "gem" not in [arm.name for arm in arms.chosen(["all"], "physics")]
    assert "gem" in [arm.name for arm in arms.chosen(["all"], "continual")]
    with pytest.raises(ValueError, match=r"arms must be core, all or of .*; got 'sun'"):
        arms.chosen(["sun"], "physics")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in arms.ARMS if name != arms.TUNED])
def test_every_arm_takes_steps(name):
    found = training.train(training.Runs(two_wells(), arms.ARMS[name].build), [0, 1])
    assert np.isfinite(found.measures["error"]).all()
