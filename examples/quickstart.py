"""Two losses, one model, one update, and what the gate did.

    python -m examples.quickstart

notebooks/01_eagc_in_five_minutes compares EAGC's other preset, "article", with the plain
sum on a small network, over seeds and loss weights, and says when not to use it.
"""

import jax
import jax.numpy as jnp
import optax

from eagc_jax import diagnostics, eagc, value_and_grads

x = jax.random.normal(jax.random.key(0), (256, 8))
params = {"kernel": jax.random.normal(jax.random.key(1), (8, 8)), "bias": jnp.ones(8)}
optimizer = optax.chain(eagc(num_objectives=2), optax.adam(1e-2))


def losses_fn(params):  # two losses of the same layer, one far above the other
    out = jnp.tanh(x @ params["kernel"] + params["bias"])
    small = jnp.mean((jnp.mean(out, axis=1) - jnp.mean(x, axis=1) / 2) ** 2)
    return {"large": jnp.mean((10 * out - 5 * x) ** 2), "small": small}


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
