"""Equinox: the model's arrays are one tree, and what isn't trained is None in it.

    python -m examples.recipes.equinox_mlp

Equinox keeps weights as (out, in); `eagc` weighs each output unit by itself, so it is
told which axis these are. Checked: both losses fall below a tenth of what they were.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from eagc_jax import eagc, value_and_grads


class Network(eqx.Module):
    """A hidden layer that both heads share."""

    trunk: eqx.nn.Linear
    height: eqx.nn.Linear
    slope: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.trunk = eqx.nn.Linear(8, 32, key=keys[0])
        self.height = eqx.nn.Linear(32, "scalar", key=keys[1])
        self.slope = eqx.nn.Linear(32, "scalar", key=keys[2])

    def __call__(self, x):
        """What both heads say of x."""
        hidden = jax.nn.gelu(self.trunk(x))
        return self.height(hidden), self.slope(hidden)


def by_output(path, shape):
    """The axes that a block spans: all but the first, the output units."""
    del path
    return tuple(range(1, len(shape)))


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (512, 8))
    height, slope = jnp.sin(x[:, 0]) + x[:, 1], jnp.cos(x[:, 0])
    params, static = eqx.partition(Network(jax.random.key(1)), eqx.is_inexact_array)
    optimizer = optax.chain(
        eagc(num_objectives=2, preset="article", granularity=by_output),
        optax.adam(1e-2),
    )
    state = optimizer.init(params)

    def losses_fn(params):
        first, second = jax.vmap(eqx.combine(params, static))(x)
        return {
            "height": jnp.mean((first - height) ** 2),
            "slope": jnp.mean((second - slope) ** 2),
        }

    @eqx.filter_jit
    def step(params, state):
        losses, gradients = value_and_grads(losses_fn)(params)
        updates, state = optimizer.update(gradients, state, params)
        return eqx.apply_updates(params, updates), state, losses

    history = []
    for _ in range(400):
        params, state, losses = step(params, state)
        history.append(losses)
    for name, last in history[-1].items():
        print(f"{name}: {history[0][name]:.3f} -> {last:.4f}")
        assert last < history[0][name] / 10


if __name__ == "__main__":
    main()
