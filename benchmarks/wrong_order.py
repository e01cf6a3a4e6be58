"""What comes of coordinating before averaging: how far the update is off.

    python -m benchmarks.wrong_order [--json FILE] [--draws N]

Coordination is not linear, so the mean of coordinated gradients isn't the coordinated
mean.
A network (one hidden layer, 1,344 parameters) is to meet K = 2 random targets with the
same outputs. It sees 32 rows in 8 parts of 4, as 8 devices or 8 microbatches would.
Right: the parts' gradients are averaged, then coordinated. Wrong: each part's are
coordinated, then averaged. Of the wrong update, median over draws of weights and data:

- ``error``: the norm of its difference to the right one, over the right one's norm;
- ``angle``: between the two, in degrees.

The plain sum is linear: there the order doesn't matter, to rounding.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from benchmarks.timing import add_json_option, machine, print_table, write_json
from eagc_jax import aggregators, eagc, sum_objectives, value_and_grads

K, INPUTS, HIDDEN, OUTPUTS = 2, 16, 64, 4
PARTS, ROWS = 8, 4

COORDINATORS = {
    # The gate at its full strength: the default reaches it after 100 steps.
    "eagc": lambda: eagc(K, preset="article", warmup_steps=0),
    "mgda": lambda: aggregators.mgda(K),
    "cagrad": lambda: aggregators.cagrad(K),
    "pcgrad": lambda: aggregators.pcgrad(K),
    "upgrad": lambda: aggregators.upgrad(K),
    "plain sum": sum_objectives,
}


def draw(key: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """Parameters; inputs and targets by part and row, targets with K in the end."""
    keys = jax.random.split(key, 5)
    params = {
        "kernel": jax.random.normal(keys[0], (INPUTS, HIDDEN)) / INPUTS**0.5,
        "bias": jax.random.normal(keys[1], (HIDDEN,)) / 2,
        "out": jax.random.normal(keys[2], (HIDDEN, OUTPUTS)) / HIDDEN**0.5,
    }
    x = jax.random.normal(keys[3], (PARTS, ROWS, INPUTS))
    return params, x, jax.random.normal(keys[4], (PARTS, ROWS, OUTPUTS, K))


def losses_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    out = jnp.tanh(x @ params["kernel"] + params["bias"]) @ params["out"]
    return jnp.mean((out[..., None] - y) ** 2, axis=(0, 1))


def both_orders(tx: optax.GradientTransformation, key: jax.Array):
    """The right and the wrong update as vectors."""
    params, x, y = draw(key)
    state = tx.init(params)
    parts = jax.vmap(lambda x, y: value_and_grads(losses_fn)(params, x, y)[1])(x, y)

    def coordinate(gradients):
        return ravel_pytree(tx.update(gradients, state, params)[0])[0]

    # The mean first, then the parts: one program to compile.
    rows = jax.tree.map(
        lambda leaf: jnp.concatenate([jnp.mean(leaf, axis=0)[None], leaf]), parts
    )
    found = jax.lax.map(coordinate, rows)
    return found[0], jnp.mean(found[1:], axis=0)


def measure(name: str, draws: int) -> dict[str, Any]:
    tx = optax.with_extra_args_support(COORDINATORS[name]())
    keys = jax.random.split(jax.random.key(0), draws)
    pairs = jax.jit(lambda keys: jax.lax.map(lambda k: both_orders(tx, k), keys))(keys)
    right, wrong = (np.asarray(found, np.float64) for found in pairs)
    lengths = [np.linalg.norm(found, axis=1) for found in (right, wrong)]
    # From the chord between the unit vectors: exact for small angles too.
    chord = np.linalg.norm(
        right / lengths[0][:, None] - wrong / lengths[1][:, None], axis=1
    )
    angle = 2 * np.arcsin(np.minimum(chord / 2, 1))
    error = np.linalg.norm(wrong - right, axis=1) / lengths[0]
    return {
        "coordinator": name,
        "error": float(np.median(error)),
        "angle": float(np.degrees(np.median(angle))),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--draws", type=int, default=50)
    options = parser.parse_args(arguments)
    print(machine())
    rows = [measure(name, options.draws) for name in COORDINATORS]
    print_table(rows, {"coordinator": "s", "error": ".1e", "angle": ".1f"})
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
