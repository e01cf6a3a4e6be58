"""Flax NNX: one trunk, two heads, and the optimizer that NNX users know.

    python -m examples.recipes.flax_nnx

The only new lines are `value_and_grads` for `nnx.value_and_grad`, and `eagc` in front of
Adam: `nnx.Optimizer` takes the gradients with their axis of objectives as they come.
Checked: both losses fall below a tenth of what they were.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from eagc_jax import eagc, value_and_grads


class Network(nnx.Module):
    """A hidden layer that both heads share."""

    def __init__(self, rngs: nnx.Rngs):
        self.trunk = nnx.Linear(8, 32, rngs=rngs)
        self.height = nnx.Linear(32, 1, rngs=rngs)
        self.slope = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        """What both heads say of x."""
        hidden = nnx.gelu(self.trunk(x))
        return self.height(hidden)[:, 0], self.slope(hidden)[:, 0]


@nnx.jit
def train_step(model, optimizer, x, height, slope):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def losses_fn(params):
        first, second = nnx.merge(graphdef, params, rest, copy=True)(x)
        return {
            "height": jnp.mean((first - height) ** 2),
            "slope": jnp.mean((second - slope) ** 2),
        }

    losses, gradients = value_and_grads(losses_fn)(params)
    optimizer.update(model, gradients)
    return losses


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (512, 8))
    height, slope = jnp.sin(x[:, 0]) + x[:, 1], jnp.cos(x[:, 0])
    model = Network(nnx.Rngs(0))
    transformation = optax.chain(eagc(num_objectives=2), optax.adam(1e-2))
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    history = [train_step(model, optimizer, x, height, slope) for _ in range(400)]
    for name, last in history[-1].items():
        print(f"{name}: {history[0][name]:.3f} -> {last:.4f}")
        assert last < history[0][name] / 10


if __name__ == "__main__":
    main()
