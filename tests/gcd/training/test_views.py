"""Pooled views: what is in the pool, and what is drawn from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd.training import views
from eagc_jax.gcd.training.augmentation import Augmentation, augment
from eagc_jax.gcd.training.inputs import ImageInputs, PooledInputs
from eagc_jax.gcd.training.loop import TrainingRun
from tests.gcd import tiny

AUGMENTATION = Augmentation()
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def pool(split, backbone):
    return views.pool_views(KEY, split.items.array, backbone, AUGMENTATION, views=3)


def test_the_pool_holds_the_prefix_of_augmented_views(pool, split, backbone):
    assert pool.tokens.shape == (96, 3, 5, 8)
    assert pool.frozen_blocks == 1

    @nnx.jit
    def prefix(backbone, key):
        return backbone.prefix(augment(key, split.items.array, AUGMENTATION), 1)

    for view in range(3):
        expected = prefix(backbone, jax.random.fold_in(KEY, view))
        # One compilation against two.
        np.testing.assert_allclose(pool.tokens[:, view], expected, atol=2e-6)
    assert np.any(pool.tokens[:, 0] != pool.tokens[:, 1])


def test_all_images_go_through_the_prefix_in_parts(split, backbone, monkeypatch):
    whole = views.frozen_tokens(backbone, jnp.asarray(split.items.array[:10]), 1)
    monkeypatch.setattr(views, "_CHUNK", 4)
    parts = views.frozen_tokens(backbone, jnp.asarray(split.items.array[:10]), 1)
    assert parts.shape == (10, 5, 8)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("number", [2, 5])
def test_two_different_views_of_each_image_are_drawn(number):
    # An entry says which image and which view it is.
    image, view = np.meshgrid(np.arange(7), np.arange(number), indexing="ij")
    pool = views.ViewPool(np.stack([image, view], axis=-1), 0)
    items = ImageInputs(np.zeros((7, 2, 2, 1)), AUGMENTATION)
    chosen = np.random.default_rng(0).integers(0, 7, (1, 400))
    inputs = PooledInputs(pool, items)
    drawn = inputs.read(chosen, KEY[None], np.arange(400))
    both = inputs.view(KEY, jnp.asarray(drawn[0]), None)
    first, second = np.asarray(both).reshape(2, 400, 2)
    chosen = chosen[0]
    # A process that holds some columns reads the same.
    some = inputs.read(chosen[None], KEY[None], np.arange(100, 130))
    np.testing.assert_array_equal(some, drawn[:, :, 100:130])
    np.testing.assert_array_equal(first[:, 0], chosen)
    np.testing.assert_array_equal(second[:, 0], chosen)
    assert np.all(first[:, 1] != second[:, 1])
    # All ordered pairs of views are equally likely: 200 draws each, or 20.
    pairs = np.unique(first[:, 1] * number + second[:, 1], return_counts=True)[1]
    expected = 400 / (number * (number - 1))
    assert len(pairs) == number * (number - 1)
    assert np.all(np.abs(pairs - expected) < 5 * np.sqrt(expected))


def test_wrong_pools_are_refused(pool, split, backbone):
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        views.pool_views(KEY, split.items.array, backbone, AUGMENTATION, views=1)
    config = dataclasses.replace(tiny.CONFIG, trainable_blocks=2)
    arguments = {"method": tiny.METHOD, "pool": pool}
    with pytest.raises(ValueError, match="pool has 1 frozen blocks behind it"):
        TrainingRun(config, split, backbone, tiny.plain_sum(), **arguments)
    arguments["pool"] = pool._replace(tokens=pool.tokens[:95])
    with pytest.raises(ValueError, match="pool has 95 images, the records 96"):
        TrainingRun(tiny.CONFIG, split, backbone, tiny.plain_sum(), **arguments)
