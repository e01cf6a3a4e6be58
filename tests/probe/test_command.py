"""The probe as a command, of files and modules of the user's."""

import json
import sys

import pytest

import eagc_jax.probe  # noqa: F401  (the module, which is the function, too)
from eagc_jax.gcd.cli import main as eagc

main = sys.modules["eagc_jax.probe"].main

PROBLEM = """
import jax.numpy as jnp


def losses_fn(w, batch):
    return {"left": jnp.sum((w - 1) ** 2), "right": jnp.sum((w + batch) ** 2)}


def problem():
    parts = {"losses_fn": losses_fn, "params": jnp.zeros(2), "batches": [1.0] * 12}
    return {**parts, "optimizer": 0.1, "steps": 9}


def short():
    return losses_fn, jnp.zeros(2), [1.0] * 3


def wrong():
    return {"losses_fn": losses_fn, "parameters": jnp.zeros(2)}


def number():
    return 3


thing = 3
"""


@pytest.fixture
def problem(tmp_path, monkeypatch):
    (tmp_path / "mytask.py").write_text(PROBLEM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mytask", None)


def test_a_module_in_this_folder(problem, capsys):
    assert main(["mytask:problem", "--run-steps", "200"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 steps training on the plain sum")
    assert "left, right" in out
    assert "Verdict: " in out


def test_a_file_and_what_is_written(problem, capsys):
    arguments = ["mytask.py:short", "--json", "p.json", "--figure", "p.png"]
    assert main(arguments) == 0
    assert json.loads((problem / "p.json").read_text())["names"] == ["left", "right"]
    assert (problem / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 steps at fixed parameters" in capsys.readouterr().out


def test_it_is_a_command_of_eagc_too(problem, capsys):
    assert eagc(["probe", "mytask.py:problem", "--steps", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 steps training")
    assert eagc(["probe", "mytask.py:none"]) != 0
    assert "no function 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mytask", "must be module:function or file.py:function, got 'mytask'"),
        ("elsewhere.py:problem", "there is no file elsewhere.py"),
        ("elsewhere:problem", "there is no module 'elsewhere'"),
        ("mytask:thing", "there is no function 'thing' in mytask"),
        ("mytask:wrong", "must return a dict with losses_fn, params, batches"),
        ("mytask:number", "It returned a int"),
    ],
)
def test_what_is_wrong_is_said(problem, capsys, target, message):
    assert main([target]) == 2
    assert message in capsys.readouterr().err
