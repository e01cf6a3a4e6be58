"""A task whose every step can be followed by hand."""

import jax
import jax.numpy as jnp
import optax

from benchmarks.evidence.task import Given, Task


def two_wells(given=None, *, optimizer=None, steps=6) -> Task:
    """Two quadratic losses of two numbers, the second's gradient 100 times as long."""
    """Two quadratic losses."""
    del given

    def losses(params, draw):
        noise = 0.01 * jax.random.normal(draw.key, (2,))
        x = params["x"] + noise + 0 * draw.data["zero"]
        return jnp.sum((x - 1) ** 2), 100 * jnp.sum((x + jnp.array([1.0, -1.0])) ** 2)

    def evaluate(params, data):
        del data
        distance = jnp.sum(params["x"] ** 2) + 0.01
        return {"error": distance, "first": params["x"][0]}

    return Task(
        "physics",
        "two-wells",
        ("near", "far"),
        lambda key, data: {"x": jax.random.normal(key, (2,))},
        losses,
        evaluate,
        steps,
        {"zero": jnp.zeros(())},
        optimizer or (lambda steps: optax.adam(0.1)),
    )


GIVEN = Given(small=True)
