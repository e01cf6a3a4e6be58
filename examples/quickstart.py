"""Two losses, one model, one update, and what the gate did.

    python -m examples.quickstart

notebooks/01_eagc_in_five_minutes compares it with the plain sum, over seeds and loss
weights, and says when not to use it.
"""

import jax
import jax.numpy as jnp
import optax

from eagc_jax import diagnostics, eagc, value_and_grads

keys = jax.random.split(jax.random.key(1), 4)
x = jax.random.normal(keys[0], (256, 8))
params = {
    "hidden": jax.random.normal(keys[1], (8, 32)) / 3,
    "large": jax.random.normal(keys[2], (32,)) / 6,
    "small": jax.random.normal(keys[3], (32,)) / 6,
}
optimizer = optax.chain(eagc(num_objectives=2), optax.adam(1e-2))


def losses_fn(params):  # two losses on one hidden layer; the first is 100 times larger
    hidden = jnp.tanh(x @ params["hidden"])
    large = jnp.mean((hidden @ params["large"] - 10 * x[:, 1] * x[:, 2]) ** 2)
    small = jnp.mean((hidden @ params["small"] - jnp.sin(2 * x[:, 0])) ** 2)
    return {"large": large, "small": small}


@jax.jit
def step(params, state):
    losses, grads = value_and_grads(losses_fn)(params)  # leaves (2, *param.shape)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, losses


state = optimizer.init(params)
for _ in range(300):
    params, state, losses = step(params, state)
print({name: round(float(loss), 3) for name, loss in losses.items()})
print(diagnostics.report(state))
