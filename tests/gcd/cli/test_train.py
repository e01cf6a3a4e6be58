"""`eagc train`: settings as they are given, no rehearsal, the same kind of folder."""

import json
import pathlib

import pytest

from eagc_jax.gcd import cli, read_settings
from eagc_jax.gcd.cli import commands
from eagc_jax.gcd.settings.running import on_images
from eagc_jax.gcd.training.aggregation import Aggregation
from tests.gcd import clouds

SMALL = (
    *("--num-classes=4", "--restarts=2", "--epochs=2", "--neighbours=3"),
    *("--set", "training.batch_size=16", "method.head_hidden=8"),
    *("method.head_projection=4", "training.warm_start.epochs=1"),
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    clouds.write_npz(tmp_path)
    return tmp_path


def train(*arguments):
    return cli.main(["train", *arguments])


def settings_of(*arguments):
    return commands.parse(["train", "clouds.npz", *arguments])._settings()


def test_a_run_that_can_be_given_back(capsys):
    options = ("--aggregator=upgrad", "--seed=3", "--truth-column=truth")
    assert train("clouds.npz", *SMALL, *options, "--out=run") == 0
    told = capsys.readouterr()
    assert "trained for 2 epochs" in told.out
    assert "rehears" not in told.out.replace("not rehearsed", "")
    written = read_settings("run")
    assert written.run.aggregator == Aggregation("upgrad")
    assert (written.run.training.seed, written.seed) == (3, 3)
    assert (written.rehearse, written.quick) == (False, False)
    summary = json.loads(pathlib.Path("run/summary.json").read_text())
    assert summary["chosen"] == "trained"
    # The same again, and with another seed.
    again = commands.parse(["train", "--settings=run/settings.json"])._settings()
    assert again == written
    other = ("train", "--settings=run/settings.json", "--seed=4", "--trains=nothing")
    found = commands.parse(other)._settings()
    assert (found.seed, found.run.training.seed) == (4, 4)
    assert found.run.training.trains == "nothing"
    assert found.run.method == written.run.method


def test_options_become_settings():
    found = settings_of("--method=rankstats", "--coordinate", "--epochs=40").run
    assert (found.method.name, found.method.rampup_epochs) == ("rankstats", 20)
    assert found.coordination.eep_weight == 0.5
    assert found.training.adapter.neighbours == 10
    found = settings_of("--trains=blocks", "--set", "training.trainable_blocks=2").run
    assert found.training.trainable_blocks == 2
    assert found.training.augmentation == on_images().training.augmentation


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--method=nothing",), "method must be one of"),
        (("--aggregator=nothing",), "name must be one of sum"),
        (("--set", "training.epoch=3"), "epoch"),
        (("--set", "epochs"), "NAME=VALUE"),
        (("--epochs=0",), "epochs must be at least 1"),
        (("--trains=all",), "'blocks'"),
        (("--settings=none.json",), "none.json"),
        (("--trains=blocks", "--num-classes=4"), "needs a backbone with blocks"),
    ],
)
def test_what_is_wrong_is_a_line(typed, told, capsys):
    assert train("clouds.npz", *typed, "--out=run") == 2
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if line.startswith("eagc: ")]
    assert len(lines) == 1, found.err
    assert told in lines[0]
