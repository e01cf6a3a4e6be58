"""Burgers' equation: u_t + u u_x = nu u_xx, a front that steepens until time 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import common, references

VISCOSITY = 0.01 / np.pi


def reference(points: int, substeps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, times 0, 0.02, ... 1, and u."""
    times = np.linspace(0, 1, 51)
    x, u = references.periodic(
        lambda x: -np.sin(np.pi * x),
        np.zeros_like,
        lambda u: u**2 / 2,
        VISCOSITY,
        times,
        points,
        substeps,
    )
    return x, times, u


@task("physics", "burgers")
def burgers(given: Given) -> Task:
    """-sin(pi x) at time 0, 0 at x = -1 and 1: residual, initial and boundary values."""
    size = common.size_of(given)
    x, times, u = reference(1024 // size.fine, 40)
    every = max(len(x) // 128, 1)

    def losses(params: networks.Layers, draw: Draw) -> tuple[jax.Array, ...]:
        keys = jax.random.split(draw.key, 3)
        inside = common.within(keys[0], size.inside, (-1, 0), (1, 1))
        start = common.along(keys[1], size.edge, -1, 1)
        late = common.along(keys[2], size.edge // 2, 0, 1)
        u = networks.derivatives(params, inside, (0,))
        residual = u.first[1] + u.value * u.first[0] - VISCOSITY * u.second[0]
        initial = common.value(params, common.at(start, 0.0))
        walls = jnp.concatenate([common.at(1.0, late), common.at(-1.0, late)])
        return (
            common.mean_square(residual),
            common.mean_square(initial + jnp.sin(jnp.pi * start)),
            common.mean_square(common.value(params, walls)),
        )

    def evaluate(params, data):
        found = common.value(params, data["points"])
        return {"error": common.relative_error(found, data["values"])}

    return Task(
        "physics",
        "burgers",
        ("equation", "initial", "boundary"),
        lambda key, data: common.field(key, size),
        losses,
        evaluate,
        size.steps,
        common.grid(x[::every], times, u.T[::every]),
    )
