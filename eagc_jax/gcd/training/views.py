"""Views of images as a model's trained part sees them: tokens of the frozen prefix."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd.training.augmentation import Augmentation, augment

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone

_CHUNK = 1024  # images through the prefix at once


class ViewPool(NamedTuple):
    """Some random views per image, drawn once, with the frozen prefix behind them.

    The prefix never changes, so runs that differ in what comes after it can share its
    work. A step then costs the trained blocks and the heads alone, at the price that an
    image has no more than V views.
    """

    tokens: np.ndarray  # (N, V, T, width), on the host
    frozen_blocks: int  # how many blocks are behind the tokens


def pool_views(
    key: jax.Array,
    images: jax.Array,
    backbone: Backbone,
    augmentation: Augmentation,
    *,
    views: int,
    trainable_blocks: int = 1,
) -> ViewPool:
    """Draws the views of all images and runs them through the frozen prefix.

    Args:
      key: a JAX random key.
      images: (N, H, W, C) floats in [0, 1].
      backbone: whose first blocks are the prefix.
      augmentation: of the views.
      views: V, at least 2, per image.
      trainable_blocks: last blocks that are not part of the prefix.

    Returns:
      The pool: 4 N V T width bytes.

    Raises:
      ValueError: fewer than two views.
    """
    if views < 2:
        raise ValueError(f"views must be at least 2, got {views}")
    frozen = backbone.depth - trainable_blocks

    images = jnp.asarray(images)

    @jax.jit
    def draw_all(key):  # one view of every image
        return augment(key, images, augmentation)

    tokens = [
        np.asarray(
            frozen_tokens(backbone, draw_all(jax.random.fold_in(key, view)), frozen)
        )
        for view in range(views)
    ]
    return ViewPool(np.stack(tokens, axis=1), frozen)


def frozen_tokens(
    backbone: Backbone, images: jax.Array, frozen_blocks: int
) -> jax.Array:
    """The prefix's tokens (N, T, width) of many images, some at a time."""
    number = len(images)
    size = min(_CHUNK, number)
    padding = -number % size
    padded = jnp.concatenate([images, jnp.zeros_like(images[:padding])])
    parts = [
        _prefix(backbone, padded[start : start + size], frozen_blocks)
        for start in range(0, number, size)
    ]
    return jnp.concatenate(parts)[:number]


@functools.partial(nnx.jit, static_argnames="frozen_blocks")
def _prefix(backbone: Backbone, images: jax.Array, frozen_blocks: int) -> jax.Array:
    return backbone.prefix(images, frozen_blocks)


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw_numbers(keys: jax.Array, rows: int, views: int) -> jax.Array:
    """Two different view numbers for each row, for S keys: (S, 2, rows) int32."""

    def of_step(key):
        first_key, step_key = jax.random.split(key)
        first = jax.random.randint(first_key, (rows,), 0, views)
        step = jax.random.randint(step_key, (rows,), 1, views)
        return jnp.stack([first, (first + step) % views])

    return jax.vmap(of_step)(keys)
