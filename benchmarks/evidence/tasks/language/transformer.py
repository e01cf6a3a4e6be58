"""A causal transformer as a tree of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Shape(NamedTuple):
    """Of the model; the defaults have 0.2 million parameters."""

    vocabulary: int = 600
    length: int = 20
    width: int = 64
    heads: int = 4
    depth: int = 2


def init(key: jax.Array, shape: Shape) -> dict[str, Any]:
    """Parameters; the embedding also reads the words out."""
    keys = jax.random.split(key, 2 + shape.depth)
    width = shape.width

    def normal(k: jax.Array, *size: int, scale: float) -> jax.Array:
        return scale * jax.random.normal(k, size)

    def layer(k: jax.Array) -> dict[str, jax.Array]:
        ks = jax.random.split(k, 4)
        scale = width**-0.5
        end = scale / (2 * shape.depth) ** 0.5  # the residual stream keeps its size
        return {
            "in": normal(ks[0], width, 3 * width, scale=scale),
            "out": normal(ks[1], width, width, scale=end),
            "up": normal(ks[2], width, 4 * width, scale=scale),
            "down": normal(ks[3], 4 * width, width, scale=end / 2),
        }

    return {
        "words": normal(keys[0], shape.vocabulary, width, scale=0.05),
        "places": normal(keys[1], shape.length, width, scale=0.05),
        "layers": [layer(k) for k in keys[2:]],
    }


def states(params: dict[str, Any], tokens: jax.Array, heads: int) -> jax.Array:
    """``(B, T)`` tokens to ``(B, T, width)`` normalised states, each of what it saw."""
    x = params["words"][tokens] + params["places"][: tokens.shape[1]]
    seen = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
    for layer in params["layers"]:
        x = x + _attention(layer, _normal(x), seen, heads)
        x = x + jax.nn.gelu(_normal(x) @ layer["up"]) @ layer["down"]
    return _normal(x)


def logits(params: dict[str, Any], states: jax.Array) -> jax.Array:
    """Of the next word, ``(B, T, vocabulary)``."""
    return states @ params["words"].T


def _normal(x: jax.Array) -> jax.Array:
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def _attention(layer, x: jax.Array, seen: jax.Array, heads: int) -> jax.Array:
    batch, time, width = x.shape
    parts = (x @ layer["in"]).reshape(batch, time, 3, heads, width // heads)
    q, k, v = (parts[:, :, n] for n in range(3))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * (width // heads) ** -0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e9))
    mixed = jnp.einsum("bhts,bshd->bthd", weights, v)
    return mixed.reshape(batch, time, width) @ layer["out"]
