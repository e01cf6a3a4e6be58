"""Several devices: the batch divided, the parameters too, the same update.

    python -m examples.recipes.multi_device

Eight devices, simulated on the processor (the first lines); accelerators need
no such line. `eagc_jax` needs no special call: gradients are averaged over the batch
by the compiler before they are coordinated, and states are laid out like the parameters.
Checked: the parameters after 20 steps are those of one device, to rounding.
"""

import jax

if __name__ == "__main__":  # before anything asks for a device
    jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import aggregators, value_and_grads

OPTIMIZER = optax.chain(aggregators.upgrad(2), optax.adam(1e-2))


def losses_fn(params, x):
    hidden = jnp.tanh(x @ params["trunk"])
    near = jnp.mean((hidden @ params["near"] - jnp.sin(x[:, 0])) ** 2)
    return {"near": near, "far": jnp.mean((hidden @ params["far"] - x[:, 1]) ** 2)}


@jax.jit
def step(params, state, x):
    _, gradients = value_and_grads(losses_fn)(params, x)
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def train(params, x):
    state = jax.jit(OPTIMIZER.init)(params)
    for _ in range(20):
        params, state = step(params, state, x)
    return params


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x = np.asarray(jax.random.normal(keys[0], (256, 8)))
    params = {
        "trunk": np.asarray(jax.random.normal(keys[1], (8, 32))) / 3,
        "near": np.asarray(jax.random.normal(keys[2], (32,))) / 6,
        "far": np.asarray(jax.random.normal(keys[3], (32,))) / 6,
    }
    alone = train(params, x)

    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=automatic)
    layout = {"trunk": P(None, "data"), "near": P("data"), "far": P("data")}
    placed = {
        name: jax.device_put(leaf, NamedSharding(mesh, layout[name]))
        for name, leaf in params.items()
    }
    batch = jax.device_put(x, NamedSharding(mesh, P("data")))
    together = train(placed, batch)
    for name, leaf in together.items():
        print(name, leaf.sharding.spec, f"on {len(leaf.sharding.device_set)} devices")
        # Sums over 256 rows in another order: 1e-7, and Adam divides by small numbers.
        np.testing.assert_allclose(leaf, alone[name], rtol=2e-3, atol=2e-5)


if __name__ == "__main__":
    main()
