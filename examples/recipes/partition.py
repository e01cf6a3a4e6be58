"""Coordination of the trunk alone, with `optax.partition`.

    python -m examples.recipes.partition

Heads belong to one objective each: there is nothing to coordinate. Here they take the
plain sum and their own learning rate, and the trunk takes UPGrad. Checked: no objective
loses by the trunk's update, in any step, to first order; and both losses come down.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import aggregators, sum_objectives, value_and_grads

GROUPS = {"trunk": "trunk", "near": "head", "far": "head"}


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (256, 8))
    params = {
        "trunk": jax.random.normal(keys[1], (8, 6)) / 3,
        "near": jax.random.normal(keys[2], (6,)) / 3,
        "far": jax.random.normal(keys[3], (6,)) / 3,
    }

    def losses_fn(params):
        hidden = jnp.tanh(x @ params["trunk"])
        near = jnp.mean((hidden @ params["near"] - jnp.sin(x[:, 0] + x[:, 1])) ** 2)
        far = jnp.mean((10 * hidden @ params["far"] - 10 * jnp.cos(x[:, 0])) ** 2)
        return {"near": near, "far": far}

    optimizer = optax.partition(
        {
            "trunk": optax.chain(aggregators.upgrad(2), optax.sgd(0.01)),
            "head": optax.chain(sum_objectives(), optax.sgd(0.003)),
        },
        GROUPS,
    )

    @jax.jit
    def step(params, state):
        losses, gradients = value_and_grads(losses_fn)(params)
        updates, state = optimizer.update(gradients, state, params)
        rise = jnp.sum(gradients["trunk"] * updates["trunk"], axis=(1, 2))
        against = jnp.sum(gradients["trunk"][0] * gradients["trunk"][1]) < 0
        return optax.apply_updates(params, updates), state, losses, rise, against

    state, history, conflicts = optimizer.init(params), [], []
    for _ in range(500):
        params, state, losses, rise, against = step(params, state)
        assert np.all(rise <= 1e-6)
        history.append(losses)
        conflicts.append(bool(against))
    share = np.mean(conflicts)
    print(f"the gradients of the trunk conflicted in {100 * share:.0f} % of the steps")
    assert share > 0.02
    for name, last in history[-1].items():
        print(f"{name}: {history[0][name]:.3f} -> {last:.3f}")
        assert last < history[0][name]


if __name__ == "__main__":
    main()
