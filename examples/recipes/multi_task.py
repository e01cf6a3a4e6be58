"""Four tasks of one network, whose losses differ ten-thousandfold in size.

    python -m examples.recipes.multi_task

The plain sum follows the largest. UPGrad conflicts with no task, but its update still
grows with a task's gradient; Nash-MTL's doesn't ask how long gradients are. Loss weights
would do as well, if they were tuned; here nothing was. Checked: of the variance of the
task that comes off worst, Nash-MTL leaves less than a third of what the sum leaves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import aggregators, sum_objectives, value_and_grads

SCALES = np.array([100.0, 10.0, 3.0, 1.0])
STEPS = 600
RATE = 1e-2


def targets(x):
    return jnp.stack(
        [
            jnp.sin(2 * x[:, 0]),
            x[:, 1] * x[:, 2],
            jnp.cos(x[:, 3] + x[:, 0]),
            jnp.tanh(2 * x[:, 1] - x[:, 3]),
        ],
        axis=1,
    )


def start(key):
    keys = jax.random.split(key, 2)
    return {
        "trunk": jax.random.normal(keys[0], (4, 24)) / 2,
        "bias": jnp.zeros(24),
        "heads": jax.random.normal(keys[1], (24, 4)) / 5,
    }


def losses_fn(params, x, y):
    out = jnp.tanh(x @ params["trunk"] + params["bias"]) @ params["heads"]
    return jnp.mean(((out - y) * SCALES) ** 2, axis=0)


def variance_left(losses, y):
    return losses / (SCALES**2 * jnp.var(y, axis=0))


def train(aggregator, x, y):
    params = start(jax.random.key(1))
    optimizer = optax.chain(aggregator, optax.adam(RATE))

    @jax.jit
    def step(carry, _):
        params, state = carry
        losses, gradients = value_and_grads(losses_fn)(params, x, y)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), losses

    _, losses = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
    return np.asarray(variance_left(losses[-1], y))


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (512, 4))
    y = targets(x)
    worst = {}
    for name, aggregator in {
        "plain sum": sum_objectives(),
        "upgrad": aggregators.upgrad(4),
        "nash_mtl": aggregators.nash_mtl(4),
    }.items():
        left = train(aggregator, x, y)
        print(f"{name:9} share of the variance left, by task: {left.round(3)}")
        worst[name] = left.max()
    assert worst["nash_mtl"] < worst["plain sum"] / 3


if __name__ == "__main__":
    main()
