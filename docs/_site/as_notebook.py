"""Makes a notebook of a program: what it says of itself, then a cell a function."""

import ast
import hashlib
import json

EMPTY = {
    "metadata": {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


def of_program(text):
    """The notebook of a program with a docstring, as JSON.

    Cells hold the program's lines, all of them and in their order; what lies between
    two functions goes with the former of imports and settings. A last
    ``if __name__ == "__main__":`` is as true in a notebook as in a program.
    """
    tree = ast.parse(text)
    title, _, rest = ast.get_docstring(tree, clean=False).partition("\n")
    cells = [cell("markdown", f"# {title.rstrip('.')}\n{rest}".rstrip())]
    cells += [cell("code", code) for code in parts(text, tree.body[1:])]
    for number, one in enumerate(cells):
        name = f"{number} {''.join(one['source'])}"
        one["id"] = hashlib.sha256(name.encode()).hexdigest()[:8]
    return json.dumps({"cells": cells, **EMPTY}, indent=1) + "\n"


def parts(text, nodes):
    """The lines below the docstring, divided where a function or a class begins."""
    lines = text.splitlines()
    alone = (ast.FunctionDef, ast.ClassDef)
    starts = [
        first_line(lines, node)
        for before, node in zip([None, *nodes[:-1]], nodes, strict=True)
        if before is None or isinstance(node, alone) or isinstance(before, alone)
    ]
    for first, last in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        yield "\n".join(lines[first - 1 : last - 1]).strip("\n")


def first_line(lines, node):
    """Of a statement, with its decorators and the comments right above it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    while lines[first - 2].startswith("#"):
        first -= 1
    return first


def cell(kind, text):
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    source = text.splitlines(keepends=True)
    return {"cell_type": kind, "id": "", "metadata": {}, **more, "source": source}
