"""The API pages name every public module; the site's own helpers do what they say.

`make site` builds the site with warnings as errors, and then `docs/_site/check.py` looks
for every public name in what was built. Here is what needs no Sphinx.
"""

import ast
import importlib.util
import json
import re
import sys
import zlib
from pathlib import Path

import nbformat
import pytest

import eagc_jax

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_site"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # they import each other, as Sphinx does
    spec.loader.exec_module(module)
    return module


check, as_notebook, gallery = map(load, ("check", "as_notebook", "gallery"))
RECIPES = sorted((ROOT / "examples" / "recipes").glob("[a-z]*.py"))
API = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (ROOT / "docs/api").glob("*")
}
ON_PAGES = set(re.findall(r"automodule:: ([\w.]+)", "\n".join(API.values())))
ALONE = set(re.findall(r"(?:auto|py:)\w+:: ([\w.]+)", "\n".join(API.values())))


def documented(name):
    """Whether an API page will have it: by its module, or by itself."""
    return name.rpartition(".")[0] in ON_PAGES or name in ALONE


@pytest.mark.parametrize("module", list(check.public_modules()))
def test_every_public_name_is_on_an_api_page(module):
    """Under this module's name, or as the same object under another public name."""
    loaded = importlib.import_module(module)
    if module in ON_PAGES:
        return
    shown = {
        id(value)
        for other in ON_PAGES & set(check.public_modules())
        for value in vars(importlib.import_module(other)).values()
    }
    missing = [
        name
        for name in loaded.__all__
        if not documented(f"{module}.{name}") and id(getattr(loaded, name)) not in shown
    ]
    assert missing == []


def test_api_pages_name_modules_that_exist_and_are_in_the_index():
    for module in ON_PAGES:
        assert importlib.util.find_spec(module) is not None, module
    assert set(API) - {"index"} <= set(API["index"].split())


def test_public_modules_are_found():
    found = set(check.public_modules())
    assert {"eagc_jax", "eagc_jax.weightings", "eagc_jax.gcd.sources"} <= found
    assert not any("._" in name for name in found)


def site_of(folder, names, page="<p>Hello</p>"):
    """A built site as `check` reads it: an inventory of these names, and a page."""
    lines = "\n".join(f"{name} py:function 1 api.html#$ -" for name in names)
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
    (folder / "objects.inv").write_bytes(head + zlib.compress(lines.encode()))
    (folder / "index.html").write_text(page)
    return folder


def test_a_name_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "public_modules", lambda: ["eagc_jax"])
    names = [f"eagc_jax.{name}" for name in eagc_jax.__all__]
    entries = check.entries_of(site_of(tmp_path, names))
    assert list(check.missing_names(entries)) == []
    entries.discard("eagc_jax.soft_gate")
    assert list(check.missing_names(entries)) == ["eagc_jax.soft_gate"]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        "<script async src=//cdn.example.org/a.js></script>",
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
        '<img alt="" src="http://example.org/a.png">',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>a { background: url(https://example.org/a.png) }</style>",
    ],
)
def test_what_a_page_loads_is_found(page, tmp_path):
    assert len(list(check.loads_of(site_of(tmp_path, [], page)))) == 1


def test_links_and_own_files_are_fine(tmp_path):
    page = '<a href="https://arxiv.org"></a><script src="_static/a.js"></script>'
    assert list(check.loads_of(site_of(tmp_path, [], page))) == []


def test_gallery_pages_hold_what_the_files_hold(tmp_path):
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "text"]},
            {"cell_type": "code", "source": ["x = 1"]},
            {"cell_type": "code", "source": []},
        ]
    }
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook))
    assert gallery.from_notebook(path) == "# Title\ntext\n\n```python\nx = 1\n```"
    program = tmp_path / "b.py"
    program.write_text('"""A title.\n\n    a command\n"""\n\nx = 1\n')
    expected = "# A title\n\n    a command\n\n```python\nx = 1\n```"
    assert gallery.from_program(program) == expected


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_s_notebook_is_the_recipe(path):
    """The same program, in cells; it is linked from the page."""
    made = gallery.pages()
    name = f"recipe_{path.stem}"
    found = nbformat.reads(made[f"{name}.ipynb"], as_version=4)
    nbformat.validate(found)
    cells = [c.source for c in found.cells if c.cell_type == "code"]
    program = ast.parse(path.read_text(encoding="utf-8"))
    said, program.body = ast.get_docstring(program, clean=False), program.body[1:]
    assert ast.dump(ast.parse("\n".join(cells))) == ast.dump(program)
    assert len(cells) > len(functions(program))
    assert found.cells[0].source.endswith(said.partition("\n")[2].rstrip())
    assert f"<{name}.ipynb>`" in made[f"{name}.md"]


def functions(program):
    return [one for one in program.body if isinstance(one, ast.FunctionDef)]


def test_a_cell_begins_with_its_comment_and_its_decorator():
    text = '"""A title."""\n\nX = 1\n\n\n# Why.\n@f\ndef g():\n    pass\n\n\nY = g()\n'
    found = json.loads(as_notebook.of_program(text))["cells"]
    sources = ["".join(one["source"]) for one in found]
    assert sources == [
        *("# A title", "X = 1", "# Why.\n@f\ndef g():\n    pass", "Y = g()")
    ]
