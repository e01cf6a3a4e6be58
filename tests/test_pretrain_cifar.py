"""examples/pretrain_cifar.py, on a handful of pictures drawn here."""

import dataclasses
import io
import re
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone
from eagc_jax.gcd.backbones.vit import ViTConfig
from eagc_jax.gcd.sources.named import cifar10
from examples import pretrain_cifar


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four noisy pictures of each class, each class in a colour of its own."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("cifar") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in cifar10.CLASSES:
            colour = random.uniform(40, 215, 3)
            for item in range(4):
                pixels = colour + random.normal(0, 20, (32, 32, 3))
                file = io.BytesIO()
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(file, "JPEG")
                archive.writestr(f"train/{name}/{item}.jpg", file.getvalue())
    return path


@pytest.mark.slow
def test_it_writes_a_small_backbone_and_says_what_it_is_worth(
    photos, tmp_path, monkeypatch, capsys
):
    vit = ViTConfig(image_size=32, patch_size=16, width=8, depth=1, heads=1)
    recipe = dataclasses.replace(
        pretrain_cifar.RECIPE, epochs=1, warmup_epochs=0, hidden=8, projection=4
    )
    monkeypatch.setattr(pretrain_cifar, "VIT", vit)
    monkeypatch.setattr(pretrain_cifar, "RECIPE", recipe)
    monkeypatch.setattr(pretrain_cifar, "NEIGHBOURS", 3)
    output = tmp_path / "weights" / "vit.npz"
    arguments = [str(photos), "--output", str(output), "--batch-size", "15"]
    arguments += ["--held-out", "0.25", "--compute-dtype", "bfloat16"]
    assert pretrain_cifar.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "30 images to learn from, 10 held out; 0.0 million parameters" in printed
    before, after = re.findall(r"neighbours, (?:before|after): (\d\.\d+)", printed)
    assert float(before) > 0.5  # a colour is easily told, even untrained
    assert 0 <= float(after) <= 1
    assert "epoch 1: InfoNCE" in printed
    assert load_backbone(output).config == vit
    with np.load(output) as file:
        assert file["pos_embed"].dtype == np.float16


def test_the_model_and_its_file_are_as_small_as_they_should_be():
    parameters = pretrain_cifar.count_parameters(pretrain_cifar.VIT)
    assert parameters < 3e6
    assert 2 * parameters < 5e6  # bytes
    assert pretrain_cifar.VIT.num_patches == 64


def test_neighbours_vote_by_similarity():
    angles = np.deg2rad([0, 2, 4, 90, 92, 10])
    known = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], 1), jnp.float32)
    labels = jnp.array([0, 0, 0, 1, 1, 1])
    asked = known[jnp.array([1, 4, 5])]
    # Of three neighbours each, the third item's are itself, 4 and 2 degrees: two to one
    # against itself, and nearly as close.
    found = pretrain_cifar._vote(asked, known, labels, 3, 2)
    np.testing.assert_array_equal(found, [0, 1, 0])
    nearest = pretrain_cifar._vote(asked, known, labels, 1, 2)
    np.testing.assert_array_equal(nearest, [0, 1, 1])


def test_every_class_is_held_out_alike():
    labels = np.repeat(np.arange(3), [10, 20, 30])
    taught, held_out = pretrain_cifar.split(labels, 0.2, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [2, 4, 6])
    both = np.sort(np.concatenate([taught, held_out]))
    np.testing.assert_array_equal(both, np.arange(60))
    assert np.any(held_out != pretrain_cifar.split(labels, 0.2, seed=1)[1])


def test_it_says_what_is_wrong(photos, tmp_path, capsys):
    output = ["--output", str(tmp_path / "x.npz")]
    for arguments, message in (
        ([str(tmp_path / "absent.zip")], "absent.zip. Give the folder"),
        ([str(photos), "--per-class", "9"], "at least 9 images named like airplane"),
        ([str(photos), "--held-out", "1"], "must leave some on either side"),
        (
            [str(photos), "--held-out", "0.25", "--batch-size", "0"],
            "batch_size must be positive",
        ),
    ):
        assert pretrain_cifar.main([*arguments, *output]) == 2
        assert message in capsys.readouterr().err
    images = pretrain_cifar.decoded(sources.load("cifar10", photos))
    assert images.shape == (40, 32, 32, 3)
