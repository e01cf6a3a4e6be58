"""Continual learning: a new task, without forgetting the old one.

    python -m examples.recipes.continual

A network knows digits and learns them again with their pixels in another order. Fifty
stored images of the old task give a second loss, which A-GEM doesn't let the update
raise, to first order; or the old network's answers on new images do, summed with the new
loss (distillation). Plain descent, as momentum would carry on what A-GEM has taken out.
Checked: A-GEM keeps at least half of the accuracy on the old task that is lost without
it, and learns the new one as well, to 0.02.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from eagc_jax import aggregators, sum_objectives, value_and_grads

STEPS, STORED = 1000, 50


def network(params, x):
    hidden = jax.nn.relu(x @ params["trunk"] + params["bias"])
    return hidden @ params["head"] + params["offset"]


def start(key):
    keys = jax.random.split(key, 2)
    return {
        "trunk": jax.random.normal(keys[0], (64, 64)) / 8,
        "bias": jnp.zeros(64),
        "head": jax.random.normal(keys[1], (64, 10)) / 8,
        "offset": jnp.zeros(10),
    }


def cross_entropy(params, x, y):
    logits = network(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(params, losses_fn, aggregator):
    """On random halves of what `losses_fn(params, key)` knows."""
    optimizer = optax.chain(aggregator, optax.sgd(0.2))

    @jax.jit
    def step(carry, key):
        params, state = carry
        _, gradients = value_and_grads(losses_fn)(params, key)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), STEPS)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params


def accuracy(params, x, y) -> float:
    return float(jnp.mean(jnp.argmax(network(params, x), axis=1) == y))


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y)
    order = np.random.default_rng(0).permutation(64)
    test = np.arange(len(y)) % 4 == 0
    tests = {"old": (x[test], y[test]), "new": (x[test][:, order], y[test])}
    x, y = x[~test], y[~test]
    stored = x[:STORED], y[:STORED]

    def batch(key):
        rows = jax.random.choice(key, len(y), (64,))
        return x[rows], y[rows]

    def on_old(params, key):
        return [cross_entropy(params, *batch(key))]

    def alone(params, key):
        images, labels = batch(key)
        return [cross_entropy(params, images[:, order], labels)]

    def with_memory(params, key):
        return [*alone(params, key), cross_entropy(params, *stored)]

    first = train(start(jax.random.key(0)), on_old, sum_objectives())

    def with_distillation(params, key):
        images = batch(key)[0][:, order]
        taught = jax.nn.softmax(network(first, images))
        said = jax.nn.log_softmax(network(params, images))
        return [*alone(params, key), -jnp.mean(jnp.sum(taught * said, axis=1))]

    arms = {
        "the new task alone": (alone, sum_objectives()),
        "distillation, summed": (with_distillation, sum_objectives()),
        "memory, summed": (with_memory, sum_objectives()),
        "memory, A-GEM": (with_memory, aggregators.a_gem(2, current=0)),
    }
    before = accuracy(first, *tests["old"])
    print(f"before: old {before:.3f}")
    found = {}
    for name, (losses_fn, aggregator) in arms.items():
        params = train(first, losses_fn, aggregator)
        found[name] = {part: accuracy(params, *tests[part]) for part in tests}
        told = ", ".join(f"{part} {value:.3f}" for part, value in found[name].items())
        print(f"{name:20} accuracy: {told}")
    without, kept = found["the new task alone"], found["memory, A-GEM"]
    assert before - kept["old"] < (before - without["old"]) / 2
    assert kept["new"] > without["new"] - 0.02


if __name__ == "__main__":
    main()
