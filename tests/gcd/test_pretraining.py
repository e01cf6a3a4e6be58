"""Recipes and the command; the lessons' success is test_training's."""

import dataclasses

import pytest

from eagc_jax.gcd import data, pretraining
from eagc_jax.gcd.checkpoints import load_backbone


def test_every_data_set_has_a_recipe_that_fits_its_images():
    for name in data.LOADERS:
        vit, config = pretraining.recipe(name)
        assert vit.num_patches == 16
        assert vit.image_size == (8 if name == "digits" else 28)
        assert dataclasses.replace(config, seed=3).seed == 3
    with pytest.raises(ValueError, match="dataset must be one of digits"):
        pretraining.recipe("cifar")


def test_the_command_writes_a_backbone_of_the_recipe(tmp_path, monkeypatch, capsys):
    digits = data.load_digits()
    few = dataclasses.replace(
        digits, images=digits.images[:16], labels=digits.labels[:16]
    )
    monkeypatch.setitem(data.LOADERS, "digits", lambda: few)
    vit = dataclasses.replace(pretraining.DIGITS_VIT, width=8, depth=1, heads=1)
    config = pretraining.PretrainConfig(
        epochs=5, warmup_epochs=0, batch_size=8, hidden=8
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
