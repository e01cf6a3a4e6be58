"""Docstrings are of one dialect: Google's sections, in one order, arguments by name."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "eagc_jax"
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Examples")
SECTIONS += ("References",)
HEADING = re.compile(r"^([A-Z][A-Za-z ]{2,20}):$", re.MULTILINE)
ARGUMENT = re.compile(r"^  (?:\\?\*){0,2}(\w+)(?: \(.*?\))?:", re.MULTILINE)


def documented(path):
    """Modules, classes and functions of a file with their docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node, getattr(node, "name", "module"), text


def arguments_of(node):
    found = node.args
    names = [a.arg for a in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    names += [a.arg for a in (found.vararg, found.kwarg) if a is not None]
    return {name for name in names if name not in ("self", "cls") and name[0] != "_"}


def deviations(path):
    for node, name, text in documented(path):
        headings = HEADING.findall(text)
        unknown = set(headings) - set(SECTIONS)
        if unknown:
            yield f"{name}: sections {sorted(unknown)}"
        elif headings != sorted(headings, key=SECTIONS.index):
            yield f"{name}: sections are {headings}, the order is {SECTIONS}"
        if isinstance(node, ast.FunctionDef) and "Args" in headings:
            body = re.split(r"^Args:$", text, flags=re.MULTILINE)[1]
            body = HEADING.split(body)[0]
            told, real = set(ARGUMENT.findall(body)), arguments_of(node)
            if told != real:
                yield f"{name}: Args differ from the signature in {sorted(told ^ real)}"


@pytest.mark.parametrize("room", sorted({p.parent for p in PACKAGE.rglob("*.py")}))
def test_sections_and_arguments(room):
    found = [f"{p.name}, {d}" for p in sorted(room.glob("*.py")) for d in deviations(p)]
    assert found == []


DEVIATING = {
    "['a', 'b']": "Args:\n      b: x.",
    "the order is": "Raises:\n      x.\n\n    Args:\n      a: x.",
    "['Parameters']": "Parameters:\n      x.",
}


@pytest.mark.parametrize("told", DEVIATING)
def test_a_deviation_is_found(told, tmp_path):
    path = tmp_path / "a.py"
    path.write_text(f'def f(a):\n    """One.\n\n    {DEVIATING[told]}\n    """')
    assert told in next(deviations(path))
