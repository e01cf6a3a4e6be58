"""Recipes, dropped patches and the command; the lessons' success is test_training's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax.gcd import data, pretraining
from eagc_jax.gcd.checkpoints import load_backbone


@pytest.mark.parametrize("share", [0.25, 0.5, 0.99])
def test_dropping_keeps_the_class_token_and_distinct_patches(share):
    # A token's first feature is its row, its second its place.
    rows, places = np.meshgrid(np.arange(6), np.arange(17), indexing="ij")
    tokens = jnp.asarray(np.stack([rows, places], -1), jnp.float32)
    kept = pretraining._drop_patches(jax.random.key(0), tokens, share)
    assert kept.shape == (6, 1 + max(1, round(16 * (1 - share))), 2)
    np.testing.assert_array_equal(kept[:, 0, 1], np.zeros(6))
    np.testing.assert_array_equal(
        kept[:, :, 0], np.broadcast_to(np.arange(6)[:, None], kept.shape[:2])
    )
    for row in np.asarray(kept[:, 1:, 1]):
        assert len(set(row)) == len(row)
        assert row.min() >= 1
    # Each row loses patches of its own.
    if share < 0.9:
        assert len({tuple(sorted(row)) for row in np.asarray(kept[..., 1])}) > 1


def test_every_patch_is_dropped_equally_often():
    tokens = jnp.broadcast_to(jnp.arange(17.0)[None, :, None], (4000, 17, 1))
    kept = pretraining._drop_patches(jax.random.key(1), tokens, 0.5)[:, 1:, 0]
    counts = np.bincount(np.asarray(kept, int).ravel(), minlength=17)[1:]
    # Binomial(4000, 1/2): a standard deviation of 32.
    assert np.all(np.abs(counts - 2000) < 150)


def test_nothing_dropped_changes_nothing():
    tokens = jnp.ones((2, 5, 3))
    assert pretraining._drop_patches(jax.random.key(0), tokens, 0.0) is tokens


def test_every_data_set_has_a_recipe_that_fits_its_images():
    for name in data.LOADERS:
        vit, config = pretraining.recipe(name)
        assert vit.num_patches == 16
        assert vit.image_size == (8 if name == "digits" else 28)
        assert dataclasses.replace(config, seed=3).seed == 3
    with pytest.raises(ValueError, match="dataset must be one of digits"):
        pretraining.recipe("cifar")
    with pytest.raises(ValueError, match=r"dropped_patches must be in \[0, 1\)"):
        pretraining.PretrainConfig(dropped_patches=1.0)


def test_the_command_writes_a_backbone_of_the_recipe(tmp_path, monkeypatch, capsys):
    digits = data.load_digits()
    few = dataclasses.replace(
        digits, images=digits.images[:16], labels=digits.labels[:16]
    )
    monkeypatch.setitem(data.LOADERS, "digits", lambda: few)
    vit = dataclasses.replace(pretraining.DIGITS_VIT, width=8, depth=1, heads=1)
    config = pretraining.PretrainConfig(
        epochs=5, warmup_epochs=0, batch_size=8, hidden=8, dropped_patches=0.5
    )
    monkeypatch.setitem(pretraining._RECIPES, "digits", (vit, config))
    output = tmp_path / "weights" / "backbone.npz"
    pretraining.main(
        ["--output", str(output), "--dataset", "digits", "--epochs", "1", "--seed", "2"]
    )
    assert load_backbone(output).config == vit
    assert "epoch   1 of 1: InfoNCE" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    output = ["--output", str(tmp_path / "x.npz")]
    missing = str(tmp_path / "missing.zip")
    with pytest.raises(SystemExit, match="Omniglot small 1 was not found"):
        pretraining.main([*output, "--dataset", "omniglot", "--data", missing])
    with pytest.raises(SystemExit):
        pretraining.main([*output, "--data", missing])
    assert "digits come with scikit-learn" in capsys.readouterr().err
