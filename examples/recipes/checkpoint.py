"""Checkpoints with Orbax: parameters and everything that the coordinator remembers.

    python -m examples.recipes.checkpoint

EAGC keeps gates and moments between steps; they are part of the optimizer's state, so
saving that is enough. Checked: a run that is saved after 50 steps, and goes on in a new
process's stead from the file alone, ends with the bits of one that was never interrupted.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from eagc_jax import eagc, value_and_grads

OPTIMIZER = optax.chain(eagc(num_objectives=2), optax.adam(1e-2))


def losses_fn(params, x):
    out = jnp.tanh(x @ params["kernel"] + params["bias"])
    return {"copy": jnp.mean((3 * out - x) ** 2), "small": jnp.mean(out**2)}


@jax.jit
def step(params, state, number):
    x = jax.random.normal(jax.random.key(number), (64, 8))
    _, gradients = value_and_grads(losses_fn)(params, x)
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def start():
    kernel = jax.random.normal(jax.random.key(0), (8, 8)) / 3
    params = {"kernel": kernel, "bias": jnp.zeros(8)}
    return params, OPTIMIZER.init(params)


def main() -> None:
    params, state = start()
    for number in range(100):
        params, state = step(params, state, number)

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "after-50"
        part = start()
        for number in range(50):
            part = step(*part, number)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, part)
        like = jax.eval_shape(start)  # shapes and dtypes are all that is needed
        with ocp.StandardCheckpointer() as checkpointer:
            rest = checkpointer.restore(path, like)
    for number in range(50, 100):
        rest = step(*rest, number)

    pairs = jax.tree.map(np.array_equal, (params, state), tuple(rest))
    same = jax.tree.leaves(pairs)
    print(f"{len(same)} arrays, the same bits: {all(same)}")
    assert all(same)


if __name__ == "__main__":
    main()
