"""What the equations share: sizes, points, and the relative error on a grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Given
from benchmarks.evidence.tasks import networks


class Size(NamedTuple):
    """Of a network and of its batches of points."""

    hidden: tuple[int, ...] = (40, 40, 40, 40)
    inside: int = 1000  # points at which the residual is taken
    edge: int = 200  # points on each part of the boundary
    steps: int = 3000
    fine: int = 1  # the reference's resolution, as a share of the full one: 1 / fine


SMALL = Size(hidden=(8, 8), inside=16, edge=8, steps=20, fine=8)


def size_of(given: Given) -> Size:
    return SMALL if given.small else Size()


def field(key: jax.Array, size: Size, inputs: int = 2) -> networks.Layers:
    """A network of one value at a point."""
    return networks.dense(key, (inputs, *size.hidden, 1))


def value(layers: networks.Layers, points: jax.Array) -> jax.Array:
    """``(N, D)`` points to ``(N,)`` values."""
    return networks.apply(layers, points)[..., 0]


def within(
    key: jax.Array, count: int, low: tuple[float, ...], high: tuple[float, ...]
) -> jax.Array:
    """``(count, D)`` points, uniform in a box."""
    corner, opposite = jnp.asarray(low), jnp.asarray(high)
    shares = jax.random.uniform(key, (count, len(low)))
    return corner + (opposite - corner) * shares


def along(key: jax.Array, count: int, low: float, high: float) -> jax.Array:
    """``(count,)`` numbers, uniform."""
    return jax.random.uniform(key, (count,), minval=low, maxval=high)


def at(x: jax.Array | float, y: jax.Array | float) -> jax.Array:
    """``(N, 2)`` points from two coordinates, one of which may be one number."""
    return jnp.stack(jnp.broadcast_arrays(jnp.asarray(x), jnp.asarray(y)), axis=-1)


def mean_square(values: jax.Array) -> jax.Array:
    return jnp.mean(values**2)


def grid(first: np.ndarray, second: np.ndarray, u: np.ndarray) -> dict[str, Any]:
    """A reference on a grid as points and values, for ``relative_error``."""
    points = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    return {
        "points": jnp.asarray(points.reshape(-1, 2), jnp.float32),
        "values": jnp.asarray(u.reshape(-1), jnp.float32),
    }


def relative_error(found: jax.Array, values: jax.Array) -> jax.Array:
    """Relative L2 error."""
    return jnp.linalg.norm(found - values) / jnp.linalg.norm(values)
