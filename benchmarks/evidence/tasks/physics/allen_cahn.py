"""The equation of Allen and Cahn: u_t = 0.001 u_xx + 5 (u - u^3), phases that part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import common, references

DIFFUSION, RATE = 1e-3, 5.0


def reference(points: int, substeps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, times 0, 0.02, ... 1, and u."""
    times = np.linspace(0, 1, 51)
    x, u = references.periodic(
        lambda x: x**2 * np.cos(np.pi * x),
        lambda u: RATE * (u - u**3),
        np.zeros_like,
        DIFFUSION,
        times,
        points,
        substeps,
    )
    return x, times, u


@task("physics", "allen-cahn")
def allen_cahn(given: Given) -> Task:
    """x^2 cos(pi x) at time 0, periodic: residual, initial values, the period.

    The usual diffusion is 0.0001; with ten times that 3,000 steps are enough to see a
    difference between arms.
    """
    size = common.size_of(given)
    x, times, u = reference(512 // size.fine, 20)
    every = max(len(x) // 128, 1)

    def losses(params: networks.Layers, draw: Draw) -> tuple[jax.Array, ...]:
        keys = jax.random.split(draw.key, 3)
        inside = common.within(keys[0], size.inside, (-1, 0), (1, 1))
        start = common.along(keys[1], size.edge, -1, 1)
        late = common.along(keys[2], size.edge // 2, 0, 1)
        u = networks.derivatives(params, inside, (0,))
        growth = RATE * (u.value - u.value**3)
        residual = u.first[1] - DIFFUSION * u.second[0] - growth
        initial = common.value(params, common.at(start, 0.0))
        west = networks.derivatives(params, common.at(-1.0, late), ())
        east = networks.derivatives(params, common.at(1.0, late), ())
        return (
            common.mean_square(residual),
            common.mean_square(initial - start**2 * jnp.cos(jnp.pi * start)),
            common.mean_square(west.value - east.value)
            + common.mean_square(west.first[0] - east.first[0]),
        )

    def evaluate(params, data):
        found = common.value(params, data["points"])
        return {"error": common.relative_error(found, data["values"])}

    return Task(
        "physics",
        "allen-cahn",
        ("equation", "initial", "period"),
        lambda key, data: common.field(key, size),
        losses,
        evaluate,
        size.steps,
        common.grid(x[::every], times, u.T[::every]),
    )
