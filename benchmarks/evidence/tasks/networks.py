"""Small networks as lists of layers, and derivatives by their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Layers = list[dict[str, jax.Array]]


def dense(key: jax.Array, sizes: Sequence[int]) -> Layers:
    """Layers of the given sizes: Glorot's normal weights, zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {
            "w": jax.random.normal(k, (m, n)) * jnp.sqrt(2 / (m + n)),
            "b": jnp.zeros(n),
        }
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(layers: Layers, x: jax.Array, activation: Any = jnp.tanh) -> jax.Array:
    """``(..., n)`` to ``(..., m)``; the last layer is linear."""
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


class Derivatives(NamedTuple):
    """A network's value and derivatives at N points with D coordinates."""

    value: jax.Array  # (N,)
    first: jax.Array  # (D, N)
    second: jax.Array  # (len(second), N): the chosen coordinates' pure second ones


def derivatives(
    layers: Layers, points: jax.Array, second: Sequence[int]
) -> Derivatives:
    """Value, gradient and pure second derivatives of a tanh network with one output.

    One forward pass that carries them along, layer by layer, in one matrix product each:
    with y = tanh z and y' = 1 - y^2 it is y_i = y' z_i and
    y_ii = y' z_ii - 2 y y' z_i^2. Far cheaper than differentiating three times.

    Args:
      layers: of ``dense``, the last one with one output.
      points: (N, D).
      second: the coordinates whose second derivative is wanted.
    """
    count, dimension = points.shape
    axes = jnp.broadcast_to(jnp.eye(dimension)[:, None], (dimension, count, dimension))
    zeros = jnp.zeros((len(second), count, dimension))
    carried = jnp.concatenate([points[None], axes, zeros])
    chosen = jnp.asarray(second, int) + 1
    for index, layer in enumerate(layers):
        carried = carried @ layer["w"]
        carried = carried.at[0].add(layer["b"])
        if index + 1 < len(layers):
            y = jnp.tanh(carried[0])
            slope = 1 - y**2
            bend = -2 * y * slope
            one = slope * carried[1 : 1 + dimension]
            two = slope * carried[1 + dimension :] + bend * carried[chosen] ** 2
            carried = jnp.concatenate([y[None], one, two])
    carried = carried[..., 0]
    return Derivatives(carried[0], carried[1 : 1 + dimension], carried[1 + dimension :])
