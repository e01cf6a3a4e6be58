"""Flax Linen: parameters are a dict, so nothing needs to be unpacked.

    python -m examples.recipes.flax_linen

Checked: both losses fall below a tenth of what they were.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen

from eagc_jax import eagc, value_and_grads


class Network(linen.Module):
    """A hidden layer that both heads share."""

    @linen.compact
    def __call__(self, x):
        """What both heads say of x."""
        hidden = linen.gelu(linen.Dense(32)(x))
        return linen.Dense(1)(hidden)[:, 0], linen.Dense(1)(hidden)[:, 0]


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (512, 8))
    height, slope = jnp.sin(x[:, 0]) + x[:, 1], jnp.cos(x[:, 0])
    model = Network()
    params = model.init(jax.random.key(1), x)
    optimizer = optax.chain(eagc(num_objectives=2), optax.adam(1e-2))
    state = optimizer.init(params)

    def losses_fn(params):
        first, second = model.apply(params, x)
        return {
            "height": jnp.mean((first - height) ** 2),
            "slope": jnp.mean((second - slope) ** 2),
        }

    @jax.jit
    def step(params, state):
        losses, gradients = value_and_grads(losses_fn)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, losses

    history = []
    for _ in range(400):
        params, state, losses = step(params, state)
        history.append(losses)
    for name, last in history[-1].items():
        print(f"{name}: {history[0][name]:.3f} -> {last:.4f}")
        assert last < history[0][name] / 10


if __name__ == "__main__":
    main()
