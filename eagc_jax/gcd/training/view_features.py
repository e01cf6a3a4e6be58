"""Features of random views of images, computed once: two of them make a step's views."""

from __future__ import annotations

import functools
import hashlib
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from eagc_jax.gcd.backbones.base import Backbone
from eagc_jax.gcd.backbones.cache import cached_array
from eagc_jax.gcd.sources import Records, read
from eagc_jax.gcd.training.augmentation import Augmentation, augment
from eagc_jax.gcd.training.inputs import in_unit_range
from eagc_jax.gcd.training.views import ViewPool
from eagc_jax.typing import PyTree

_VERSION = 1  # of what is computed; part of the cache's key


def view_features(
    records: Records,
    backbone: Backbone,
    augmentation: Augmentation,
    *,
    views: int,
    seed: int = 0,
    batch_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
) -> ViewPool:
    """Draws the views of all images and gives each its feature.

    A run with an adapter then sees what cropping and colours do to a feature, at the
    price that an image has no more than V views.

    Args:
      records: N images, read when their turn comes.
      backbone: frozen.
      augmentation: of the views, drawn from prepared images.
      views: V, at least 2, per image.
      seed: of the draws.
      batch_size: images at once.
      cache: folder in which the features are kept; None keeps nothing.

    Returns:
      The pool, with (N, V, width) float32 tokens: 4 N V width bytes.

    Raises:
      ValueError: fewer than two views, or items that are no images.
      BadItem: an image can't be read.
    """
    if views < 2:
        raise ValueError(f"views must be at least 2, got {views}")
    if records.kind != "image":
        raise ValueError(
            f"{records.name} holds items of kind {records.kind!r}; views are of images"
        )

    def make() -> np.ndarray:
        found = [
            _one_view(records, backbone, augmentation, seed, view, batch_size)
            for view in range(views)
        ]
        return np.stack(found, axis=1)

    key = (
        f"views {_VERSION} {views} seed {seed} {augmentation} of {_digest(records)} by "
        f"{backbone.fingerprint()} {backbone.preparation} in {batch_size}"
    )
    return ViewPool(cached_array(cache, key, make), backbone.depth)


def _one_view(
    records: Records,
    backbone: Backbone,
    augmentation: Augmentation,
    seed: int,
    view: int,
    batch_size: int,
) -> np.ndarray:
    """(N, width): one random view of each image."""
    key = jax.random.fold_in(jax.random.key(seed), view)
    graphdef, state = nnx.split(backbone)
    rows = np.arange(len(records))
    batches = read(
        records,
        rows,
        backbone.prepare,
        batch_size=batch_size,
        collate=backbone.collate,
    )
    found = []
    for number, (of, images) in enumerate(batches):
        filled = images[np.minimum(np.arange(batch_size), len(of) - 1)]  # one shape
        drawn = jax.random.fold_in(key, number)
        features = _features(graphdef, augmentation, state, drawn, filled)
        found.append(np.asarray(features)[: len(of)])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(
    graphdef: nnx.GraphDef[Backbone],
    augmentation: Augmentation,
    state: PyTree,
    key: jax.Array,
    images: ArrayLike,
) -> jax.Array:
    backbone = nnx.merge(graphdef, state)
    views = augment(key, in_unit_range(jnp.asarray(images)), augmentation)
    depth = backbone.depth
    return backbone.readout(backbone.prefix(views, depth), depth)


def _digest(records: Records) -> str:
    """Of the contents, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for row in range(len(records)):
        found.update(records.items.digest(row))
    return found.hexdigest()
