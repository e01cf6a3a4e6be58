"""The recipes, as their readers run them: each checks its own claim."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


# In CI's second step: together they take minutes.
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_keeps_its_claim(name, capsys):
    importlib.import_module(f"examples.recipes.{name}").main()
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_it_is_run_and_what_it_checks(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert f"    python -m examples.recipes.{name}\n" in text
    assert "Checked: " in text.split('"""')[1]
    assert len(text.splitlines()) < 170


@pytest.mark.slow
def test_a_recipe_is_a_program():
    """The one that asks for devices before anything else does."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.recipes.multi_device"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "on 8 devices" in done.stdout
