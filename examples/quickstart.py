"""Two losses, one model, one update: what EAGC does beside the plain sum.

    python -m examples.quickstart

Prints both losses before and after training with the plain sum and with EAGC, and what
the gate did in the last step. It is one run: notebooks/01_eagc_in_five_minutes.py repeats
it over seeds and loss weights, and says when not to use this.
"""

import jax
import jax.numpy as jnp
import optax

from eagc_jax import diagnostics, eagc, sum_objectives, value_and_grads

keys = jax.random.split(jax.random.key(1), 3)
x = jax.random.normal(keys[0], (256, 8))
y = jnp.stack([jnp.sin(2 * x[:, 0]), 10 * x[:, 1] * x[:, 2]], axis=1)


def losses_fn(params):  # returns (2,): the second loss starts a hundred times larger
    prediction = jnp.tanh(x @ params["hidden"]) @ params["out"]
    return jnp.mean((prediction - y) ** 2, axis=0)


def train(coordinate, steps=500):
    params = {
        "hidden": jax.random.normal(keys[1], (8, 32)) / 8**0.5,
        "out": jax.random.normal(keys[2], (32, 2)) / 32**0.5,
    }
    optimizer = optax.chain(coordinate, optax.adam(1e-2))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        _, grads = value_and_grads(losses_fn)(params)  # leaves (2, *param.shape)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    before = losses_fn(params)
    for _ in range(steps):
        params, state = step(params, state)
    return before, losses_fn(params), state


before, plain, _ = train(sum_objectives())
_, gated, state = train(eagc(num_objectives=2))

for name, losses in {"before": before, "plain sum": plain, "EAGC": gated}.items():
    print(f"{name:9}  small loss {losses[0]:7.3f}   large loss {losses[1]:8.3f}")
print(diagnostics.report(state))
