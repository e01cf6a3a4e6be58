"""Every notebook runs to its last assert, and its two forms say the same.

The reviewed source is the percent script; the ``.ipynb`` is made from it::

    jupytext --to ipynb notebooks/NAME.py
"""

import runpy
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_has_both_forms():
    assert SOURCES
    assert [path.stem for path in SOURCES] == sorted(
        path.stem for path in FOLDER.glob("*.ipynb")
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_both_forms_say_the_same(source):
    made = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert cells(made) == cells(jupytext.read(source)), (
        f"{source.stem}.ipynb is out of date: jupytext --to ipynb {source}"
    )
    assert source.with_suffix(".ipynb").stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs_and_ends_in_its_claims(source, tmp_path, monkeypatch):
    monkeypatch.setenv("EAGC_FAST", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert "assert " in last.source
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    ).execute()


@pytest.mark.slow
def test_a_recipe_runs_as_a_notebook(tmp_path, monkeypatch):
    """The one that asks for devices before anything else does."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    path = FOLDER.parent / "docs" / "_site" / "as_notebook.py"
    recipe = FOLDER.parent / "examples" / "recipes" / "multi_device.py"
    made = runpy.run_path(str(path))["of_program"](recipe.read_text(encoding="utf-8"))
    notebook = nbformat.reads(made, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    ).execute()
    assert "on 8 devices" in notebook.cells[-1].outputs[0].text
