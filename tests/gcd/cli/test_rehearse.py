"""`eagc rehearse` and `eagc estimate-classes`: what they print, write and refuse."""

import json

import numpy as np
import pytest

from eagc_jax.gcd import cli
from eagc_jax.gcd.evaluation.rehearsal import read_rehearsal
from tests.gcd import clouds
from tests.gcd.evaluation.rehearsal.problems import CLASSES, KNOWN, blobs


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def data(place):
    records, rows = blobs()
    names = np.array([*records.class_names[:KNOWN], ""])[records.labels]
    np.savez(place / "blobs.npz", embeddings=rows, labels=names)
    return place / "blobs.npz"


def eagc(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_rehearse_says_how_far_to_trust(data, capsys):
    assert eagc("rehearse", data, "--candidates", "first", "--json", "told.json") == 0
    told = capsys.readouterr().out
    found = read_rehearsal("told.json")
    assert len(found.best.trials) == 3
    new = found.best.new
    for part in (
        "first answer",
        f"{new.expected:.3f} [{new.low:.3f}, {new.high:.3f}]",
        f"expect {new.expected:.0%} of the items of novel classes",
        f"between {new.low:.0%} and {new.high:.0%}",
        "nothing else was tried",
        "wrote told.json",
    ):
        assert part in told
    assert new.expected > 0.9


def test_the_budget_leaves_out_training_and_says_so(data, capsys):
    options = ("--candidates", "first", "trained", "pcgrad", "--budget", "0.001s")
    assert eagc("rehearse", data, "--num-classes", CLASSES, *options) == 0
    told = capsys.readouterr().out
    assert "left out: trained: there was no time for it" in told
    assert "left out: trained, pcgrad: there was no time for it" in told


def test_rehearse_refuses_what_can_t_be(place, data, capsys):
    few = clouds.write(place)
    for arguments, told in (
        ((few,), "at least 3 known classes, found 2"),
        (
            (data, "--candidates", "best"),
            "--candidates takes first, trained, sum, eagc",
        ),
        ((data, "--candidates"), "--candidates must name at least one"),
        ((data, "--budget", "soon"), "a time should be like 90s"),
        ((data, "--num-classes", 3), "--num-classes must be in [8,"),
    ):
        assert eagc("rehearse", *arguments) == 2
        assert told in capsys.readouterr().err
    assert not (place / "told.json").exists()


def test_estimate_classes_shows_interval_and_curve(data, capsys):
    assert eagc("estimate-classes", data, "--json", "classes.json") == 0
    told = capsys.readouterr().out
    found = json.loads((data.parent / "classes.json").read_text())
    assert found["known_classes"] == KNOWN
    assert list(found["methods"]) == ["neighbours", "accuracy"]
    for name, one in found["methods"].items():
        interval = f"{name}: {one['number']} classes, likely {one['low']} to "
        assert interval + str(one["high"]) in told
        assert one["low"] <= one["number"] <= one["high"]
        inside = [n for n, _ in one["curve"] if one["low"] <= n <= one["high"]]
        assert inside
    assert found["methods"]["neighbours"]["low"] <= CLASSES
    assert found["methods"]["neighbours"]["high"] >= CLASSES
    assert "8 of them are known" in told


def test_one_method_and_a_largest_number(data, capsys):
    options = ("--method", "information", "--maximum", 20)
    assert eagc("estimate-classes", data, *options) == 0
    told = capsys.readouterr().out
    assert "information: " in told
    assert "accuracy" not in told
    assert "      20  " in told
    assert eagc("estimate-classes", data, "--method", "guess") == 2
    assert "guess" in capsys.readouterr().err
