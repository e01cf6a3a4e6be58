"""What all commands have in common: help with examples, errors on one line, progress."""

import io
import pathlib
import re
import subprocess
import sys

import pytest
from rich.console import Console

from eagc_jax.gcd import cli
from eagc_jax.gcd.cli import commands
from eagc_jax.gcd.cli.progress import Shown


def listed():
    """Names of all commands, as `eagc --help` lists them."""
    told, out = io.StringIO(), sys.stdout
    sys.stdout = told
    try:
        with pytest.raises(SystemExit):
            commands.parse(["--help"])
    finally:
        sys.stdout = out
    return re.findall(r"^  ([a-z-]+)  +\S", told.getvalue(), re.MULTILINE)


COMMANDS = listed()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def eagc(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_help_lists_every_command_on_one_line(capsys):
    known = {"discover", "embed", "cache", "doctor", "pretrain", "train", "export"}
    assert known | {"compare", "weights"} <= set(COMMANDS)
    assert eagc("--help") == 0
    told = capsys.readouterr().out
    for line in told.splitlines():
        assert len(line) <= 100, line
    assert "For example: eagc discover" in told
    assert eagc("-h") == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert eagc(name, "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"For example: eagc {name}" in told
    assert "noqa" not in told


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_a_line(name, capsys):
    assert eagc(name, "--no-such-option") == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1, found.err
    assert found.err.startswith("eagc: ")


BAD = {
    "discover": ("nowhere", "--quick"),
    "train": ("nowhere",),
    "embed": ("nowhere", "--out=x.npz"),
    "export": ("nowhere", "--to=csv"),
    "compare": ("nowhere", "nowhere"),
    "weights": ("show", "nowhere.pth"),
    "pretrain": ("--output=x.npz", "--dataset=nowhere"),
    "rehearse": ("nowhere",),
    "estimate-classes": ("nowhere",),
    "predict": ("nowhere", "nowhere.csv"),
    "page": ("nowhere",),
    "label": ("nowhere", "1", "scratch"),
}


@pytest.mark.parametrize("name", [name for name in BAD if name in COMMANDS])
def test_what_is_not_there_is_a_line(name, place, capsys):
    assert eagc(name, *BAD[name]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1, found.err
    assert "nowhere" in found.err
    assert not [one for one in place.iterdir() if one.name != "cache"]


def test_help_needs_no_jax():
    code = (
        "import sys\n"
        "from eagc_jax.gcd.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'jax', 'flax', 'grain', 'pyarrow', 'sklearn', 'scipy', 'PIL'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    root = pathlib.Path(__file__).parents[3]
    for typed in (["--help"], ["discover", "--help"], ["train", "--help"]):
        run = [sys.executable, "-c", code, *typed]
        found = subprocess.run(run, capture_output=True, text=True, cwd=root)
        assert found.returncode == 0, found.stderr
        assert found.stdout.endswith("loaded: []\n")


def test_steps_of_a_stage_say_how_long_yet(capsys, monkeypatch):
    monkeypatch.setattr("eagc_jax.gcd.cli.progress._SECONDS", 0.0)
    now = iter([0.0, 0.0, 6.0, 6.0, 100.0, 100.0, 107.0, 107.0])
    monkeypatch.setattr("eagc_jax.gcd.cli.progress.time.monotonic", lambda: next(now))
    with Shown(Console(file=io.StringIO())) as shown:
        shown.stage("training")
        shown.stage("training, epoch 3 of 20")
        shown.stage("rehearsal")
        shown.stage("rehearsal, 0 of 9 answers: first answer")
    assert capsys.readouterr().err.splitlines() == [
        "training, epoch 3 of 20: 2.0 s each, 34 s left",
        "rehearsal, 0 of 9 answers: first answer",
    ]


def test_a_bar_counts_the_steps(monkeypatch):
    screen = io.StringIO()
    with Shown(Console(file=screen, force_terminal=True, width=120)) as shown:
        shown.stage("training")
        shown.stage("training, epoch 3 of 20")
        shown._bar.refresh()
    assert "3/20" in screen.getvalue()
    assert "left" in screen.getvalue()
