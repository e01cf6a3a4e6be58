"""The program behind the table: it resumes, says what is missing, builds every arm."""

import jax
import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import vit as models
from eagc_jax.gcd.runs.comparison import finished
from eagc_jax.gcd.runs.comparison.arms import ARMS, CONTROL
from eagc_jax.gcd.training import pretraining
from examples import what_helps

VIT = models.ViTConfig(
    image_size=8, patch_size=4, channels=1, width=8, depth=2, heads=2, mlp_ratio=1
)
RECIPE = pretraining.PretrainConfig(
    epochs=1, warmup_epochs=0, batch_size=64, hidden=8, projection=4
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The program on few images, a tiny backbone and one epoch."""
    split = sources.load("digits").select(np.arange(160))
    monkeypatch.setattr(sources, "load", lambda name, *_, **__: split)
    monkeypatch.setattr(pretraining, "recipe", lambda name: (VIT, RECIPE))
    size = what_helps.Size(epochs=1, reference_epochs=1, views=2)
    monkeypatch.setitem(what_helps.SIZES, "digits", size)
    return [
        *("--datasets", "digits", "--seeds", "1", "--cache", str(tmp_path / "cache")),
        *("--output", str(tmp_path / "rows.csv"), "--arms", CONTROL, "EEP, centred"),
    ]


@pytest.mark.slow
def test_it_trains_every_arm_once_and_goes_on(tiny, tmp_path, monkeypatch, capsys):
    markdown = tmp_path / "table.md"
    assert what_helps.main([*tiny, "--markdown", str(markdown)]) == 0
    rows = finished.read_runs(tmp_path / "rows.csv")
    assert [(row.arm, row.seed) for row in rows] == [(CONTROL, 0), ("EEP, centred", 0)]
    assert all(np.isfinite(row[3:]).all() for row in rows)
    assert "EEP, centred" in markdown.read_text()
    # Again: nothing is left to train.
    monkeypatch.setattr(what_helps, "arm_run", None)
    monkeypatch.setattr(what_helps, "prepare", None)
    assert what_helps.main(tiny) == 0
    assert finished.read_runs(tmp_path / "rows.csv") == rows
    # Cut off while a line was written: that run counts as not done.
    path = tmp_path / "rows.csv"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TypeError):
        what_helps.main(tiny)
    assert "incomplete last line" in capsys.readouterr().out


def test_missing_data_is_said_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAGC_DATA", raising=False)
    assert what_helps.main(["--datasets", "omniglot"]) == 2
    assert "was not found" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_can_be_built(name):
    arm = ARMS[name]
    assert arm.what
    if arm.aggregator is None:
        return
    aggregator = arm.aggregator.build((0.35, 0.65))
    assert aggregator is arm.aggregator.build((0.35, 0.65))
    # Gradients that agree: every arm's update is the weighted sum.
    params = {"kernel": np.ones((2, 3), np.float32)}
    gradients = {"kernel": np.stack([params["kernel"], 2 * params["kernel"]])}
    step = jax.jit(lambda g, p: aggregator.update(g, aggregator.init(p), p))
    updates, _ = step(gradients, params)
    np.testing.assert_allclose(updates["kernel"], 1.65, rtol=1e-5)
