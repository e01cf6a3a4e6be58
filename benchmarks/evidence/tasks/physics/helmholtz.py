"""Helmholtz' equation: u_xx + u_yy + u = q, of a wave with four periods in y."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import common, references

WAVES = (1, 4)  # half the periods in x, in y


def source(x, y, sin=np.sin):
    """q, of which sin(pi x) sin(4 pi y) is the solution."""
    first, second = (np.pi * wave for wave in WAVES)
    return (1 - first**2 - second**2) * sin(first * x) * sin(second * y)


@task("physics", "helmholtz")
def helmholtz(given: Given) -> Task:
    """0 on the boundary of [-1, 1]^2: residual and boundary values."""
    size = common.size_of(given)
    nodes, u = references.sines(source, 1.0, 128 // size.fine - 1)

    def losses(params: networks.Layers, draw: Draw) -> tuple[jax.Array, ...]:
        keys = jax.random.split(draw.key)
        inside = common.within(keys[0], size.inside, (-1, -1), (1, 1))
        u = networks.derivatives(params, inside, (0, 1))
        residual = u.second[0] + u.second[1] + u.value
        residual = residual - source(inside[:, 0], inside[:, 1], jnp.sin)
        s, one = common.along(keys[1], size.edge // 2, -1, 1), 1.0
        walls = [(s, one), (s, -one), (one, s), (-one, s)]
        edge = jnp.concatenate([common.at(*wall) for wall in walls])
        return (
            common.mean_square(residual),
            common.mean_square(common.value(params, edge)),
        )

    def evaluate(params, data):
        found = common.value(params, data["points"])
        return {"error": common.relative_error(found, data["values"])}

    return Task(
        "physics",
        "helmholtz",
        ("equation", "boundary"),
        lambda key, data: common.field(key, size),
        losses,
        evaluate,
        size.steps,
        common.grid(nodes, nodes, u),
    )
