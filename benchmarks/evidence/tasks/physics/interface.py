"""Poisson's equation in two materials that meet at x = 0: -div(a grad u) = f."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import common, references

LEFT, RIGHT = 1.0, 10.0  # a on either side


def coefficient(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, LEFT, RIGHT)


def source(x, y, of=np):
    """f: a hump, and a wave along the interface."""
    return 10 * (of.cos(np.pi * y / 2) + of.sin(np.pi * y) * of.cos(np.pi * x))


@task("physics", "interface")
def interface(given: Given) -> Task:
    """A network a side: residuals, boundary, and both jumps at the interface.

    Value and flux a u_x must be continuous at x = 0; u is 0 on the boundary.
    """
    size = common.size_of(given)
    if not given.small:
        size = size._replace(hidden=(30, 30, 30))
    x, y, u = references.layered(source, coefficient, 256 // size.fine)
    every = max(len(x) // 64, 1)

    def residual(layers: networks.Layers, points: jax.Array, a: float) -> jax.Array:
        u = networks.derivatives(layers, points, (0, 1))
        # Divided by a, so that both sides count alike.
        return u.second[0] + u.second[1] + source(*points.T, of=jnp) / a

    def losses(params, draw: Draw) -> tuple[jax.Array, ...]:
        keys = jax.random.split(draw.key, 4)
        left, right = params["left"], params["right"]
        at_left = common.within(keys[0], size.inside // 2, (-1, -1), (0, 1))
        at_right = common.within(keys[1], size.inside // 2, (0, -1), (1, 1))
        equation = common.mean_square(residual(left, at_left, LEFT))
        equation += common.mean_square(residual(right, at_right, RIGHT))
        s, across = jnp.split(common.along(keys[2], size.edge, -1, 1), 2)
        far = jnp.abs(across)

        def walls(sign: float) -> jax.Array:
            sides = [(sign, s), (sign * far, 1.0), (sign * far, -1.0)]
            return jnp.concatenate([common.at(*side) for side in sides])

        edge = common.mean_square(common.value(left, walls(-1.0)))
        edge += common.mean_square(common.value(right, walls(1.0)))
        seam = common.at(0.0, common.along(keys[3], size.edge, -1, 1))
        west = networks.derivatives(left, seam, ())
        east = networks.derivatives(right, seam, ())
        return (
            equation,
            edge,
            common.mean_square(west.value - east.value),
            common.mean_square(LEFT * west.first[0] - RIGHT * east.first[0]),
        )

    def evaluate(params, data):
        points = data["points"]
        sides = (
            common.value(params["left"], points),
            common.value(params["right"], points),
        )
        found = jnp.where(points[:, 0] < 0, *sides)
        return {"error": common.relative_error(found, data["values"])}

    def init(key, data):
        keys = jax.random.split(key)
        return {
            "left": common.field(keys[0], size),
            "right": common.field(keys[1], size),
        }

    return Task(
        "physics",
        "interface",
        ("equation", "boundary", "jump", "flux"),
        init,
        losses,
        evaluate,
        size.steps,
        common.grid(
            x[every // 2 :: every], y[::every], u[every // 2 :: every, ::every]
        ),
    )
