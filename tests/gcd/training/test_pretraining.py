"""Recipes and the command; the lessons' success is test_training's."""

import dataclasses
import time

import numpy as np
import optax
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone
from eagc_jax.gcd.training import pretraining


def test_every_data_set_has_a_recipe_that_fits_its_images():
    for name in ("digits", "fashion-mnist", "mnist", "omniglot"):
        vit, config = pretraining.recipe(name)
        assert vit.num_patches == 16
        assert vit.image_size == (8 if name == "digits" else 28)
        assert dataclasses.replace(config, seed=3).seed == 3
    with pytest.raises(ValueError, match="dataset must be one of digits"):
        pretraining.recipe("cifar")


def test_the_command_writes_a_backbone_of_the_recipe(tmp_path, monkeypatch, capsys):
    few = sources.load("digits").select(np.arange(16))
    monkeypatch.setattr(sources, "load", lambda name, root: few)
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


@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_is_optaxs_schedule(warmup):
    config = pretraining.PretrainConfig(epochs=10, warmup_epochs=warmup)
    steps = 7
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup * steps, 10 * steps
    )
    progress = pretraining._Progress(config, steps, None)
    found = []
    for _ in range(10):
        assert not progress.is_over()
        found.append(progress.learning_rates(steps))
    assert progress.is_over()
    expected = [schedule(step) for step in range(10 * steps)]
    # The schedule counts in float32, whose cosine near 0 is as far off.
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5, atol=1e-9)


def test_a_lesson_with_a_time_limit_ends_in_time_at_a_rate_of_zero(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pretraining.time, "perf_counter", lambda: now[0])
    config = pretraining.PretrainConfig(epochs=1000, warmup_epochs=100)
    progress = pretraining._Progress(config, steps=50, seconds=60.0)
    rates = []
    while not progress.is_over():
        rates.append(progress.learning_rates(5))
        now[0] += 2.5  # half a second a step
    assert len(rates) == 24  # of 5 steps in 2.5 s each
    rates = np.concatenate(rates)
    peak = rates.argmax()
    assert 10 <= peak <= 15  # a tenth of 120 steps
    np.testing.assert_allclose(rates[peak], config.learning_rate, rtol=0.01)
    assert np.all(np.diff(rates[peak:]) < 0)
    assert rates[-1] < 0.001 * config.learning_rate
    # With time to spare, the epochs end it, as without a limit.
    progress = pretraining._Progress(config, steps=50, seconds=1e9)
    without = pretraining._Progress(config, steps=50, seconds=None)
    for _ in range(10):
        np.testing.assert_allclose(
            progress.learning_rates(50), without.learning_rates(50), rtol=1e-5
        )
        now[0] += 1
        progress.is_over()


def test_a_time_limit_is_kept_and_the_epoch_it_ends_in_is_told():
    images = np.random.default_rng(0).random((60, 8, 8, 1), np.float32)
    vit = dataclasses.replace(pretraining.DIGITS_VIT, width=8, depth=1, heads=1)
    config = pretraining.PretrainConfig(
        epochs=10**6, warmup_epochs=0, batch_size=2, hidden=8
    )
    seen = []
    start = time.perf_counter()
    pretraining.pretrain(
        images, vit, config, lambda epoch, loss: seen.append(epoch), seconds=0.05
    )
    assert time.perf_counter() - start < 60  # compilation, most of it
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 1
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        pretraining.pretrain(images, vit, config, seconds=0)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    output = ["--output", str(tmp_path / "x.npz")]
    missing = str(tmp_path / "missing.zip")
    with pytest.raises(SystemExit, match="Omniglot small 1 was not found"):
        pretraining.main([*output, "--dataset", "omniglot", "--data", missing])
    with pytest.raises(SystemExit):
        pretraining.main([*output, "--data", missing])
    assert "digits come with scikit-learn" in capsys.readouterr().err
