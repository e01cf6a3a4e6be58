"""The reference model: what moves, what is read, and what a run does with it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd.backbones import vit as models
from eagc_jax.gcd.backbones import weights
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import ArrayItems
from eagc_jax.gcd.training import views
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.reference import train_reference
from eagc_jax.gcd.training.settings import FeatureCoordination, ReferenceConfig
from tests.gcd import tiny

CONFIG = ReferenceConfig(epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def reference(split, backbone):
    return train_reference(CONFIG, split, backbone)


def test_only_the_last_block_moves(reference, backbone):
    before = weights.parameters(backbone)
    after = weights.parameters(reference)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert {name.rsplit(".", 1)[0] for name in moved} == {
        *("blocks.1.attn.proj", "blocks.1.attn.qkv", "blocks.1.mlp.fc1"),
        *("blocks.1.mlp.fc2", "blocks.1.norm1", "blocks.1.norm2"),
    }


def test_images_and_labels_without_permission_are_not_read(reference, split, backbone):
    labeled = split.labeled_mask
    blind = dataclasses.replace(
        split,
        items=ArrayItems(
            np.where(labeled[:, None, None, None], split.items.array, np.nan)
        ),
        truth=None,
    )
    again = train_reference(CONFIG, blind, backbone)
    expected = weights.parameters(reference)
    for name, leaf in weights.parameters(again).items():
        np.testing.assert_array_equal(leaf, expected[name])


def test_pooled_views_serve_as_well(reference, split, backbone):
    augmentation = CONFIG.augmentation
    key = jax.random.key(0)
    pool = views.pool_views(key, split.items.array, backbone, augmentation, views=2)
    config = dataclasses.replace(CONFIG, epochs=1)
    found = train_reference(config, split, backbone, pool)
    before = weights.parameters(backbone)
    after = weights.parameters(found)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert moved
    assert all(name.startswith("blocks.1.") for name in moved)


def test_a_reference_with_another_prefix_is_refused(reference, split):
    other = nnx.jit(lambda: models.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(1)))()
    arguments = {"method": tiny.METHOD, "coordination": FeatureCoordination()}
    with pytest.raises(ValueError, match="reference must have the backbone's frozen"):
        TrainingRun(
            tiny.CONFIG,
            split,
            other,
            tiny.plain_sum(),
            reference=reference,
            **arguments,
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("temperature", 0.0),
    ],
)
def test_wrong_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        dataclasses.replace(CONFIG, **{field: value})


def test_a_batch_must_fit_the_labeled_images(split, backbone):
    number = int(split.labeled_mask.sum())
    config = dataclasses.replace(CONFIG, batch_size=number + 1)
    with pytest.raises(ValueError, match=f"at most the {number} labeled images"):
        train_reference(config, split, backbone)


def test_a_reference_needs_a_backbone(split):
    with pytest.raises(ValueError, match="backbone is needed"):
        RunSettings(reference=CONFIG).start(split)
