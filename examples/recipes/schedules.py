"""Options that change while training, with `optax.inject_hyperparams`.

    python -m examples.recipes.schedules

The gate's floor, under which no objective's gate may fall, starts at 0.9, where EAGC is
nearly the plain sum, and comes down to 0.2. Checked: no gate is under the floor of its
step, and some are under 0.9 once they may be.
"""

import jax
import jax.numpy as jnp
import optax

from eagc_jax import diagnostics, eagc, value_and_grads

STEPS = 300


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (256, 8))
    params = {"kernel": jax.random.normal(keys[1], (8, 8)) / 3, "bias": jnp.zeros(8)}

    def losses_fn(params):
        out = jnp.tanh(x @ params["kernel"] + params["bias"])
        return {"copy": jnp.mean((out - x / 2) ** 2), "sparse": jnp.mean(jnp.abs(out))}

    floor = optax.linear_schedule(0.9, 0.2, STEPS // 2)
    coordinate = optax.inject_hyperparams(eagc, static_args=("num_objectives",))(
        2, preset="article", floor=floor, warmup_steps=0
    )
    optimizer = optax.chain(coordinate, optax.adam(1e-2))

    @jax.jit
    def step(params, state):
        losses, gradients = value_and_grads(losses_fn)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, losses

    state = optimizer.init(params)
    lowest = []
    for number in range(STEPS):
        params, state, losses = step(params, state)
        gates = diagnostics.report(state).gates
        assert gates.min() >= float(floor(number)) - 1e-6
        lowest.append(float(gates.min()))

    print({name: round(float(loss), 4) for name, loss in losses.items()})
    print(f"lowest gate in the first step: {lowest[0]:.3f}, of all: {min(lowest):.3f}")
    assert min(lowest) < 0.9


if __name__ == "__main__":
    main()
