"""Makes a page of every example and every notebook, as they are in the repository."""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "gallery"  # made, never committed


def from_notebook(path):
    """The cells of a notebook, in their order."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        if text:
            parts.append(fenced(text) if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts)


def from_program(path):
    """What a program says of itself, then the program."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    told = ast.get_docstring(tree, clean=False) or path.stem
    title, _, rest = told.partition("\n")
    code = text.split('"""', 2)[2].strip()
    return "\n\n".join((f"# {title.rstrip('.')}", rest.strip("\n"), fenced(code)))


def fenced(code):
    return f"```python\n{code}\n```"


def make(app):
    """Writes the pages; those that say the same stay, so that builds stay quick."""
    made = {
        **{p.stem: from_notebook(p) for p in ROOT.glob("notebooks/*.ipynb")},
        **{p.stem: from_program(p) for p in ROOT.glob("examples/[a-z]*.py")},
        **{
            f"recipe_{p.stem}": from_program(p)
            for p in ROOT.glob("examples/recipes/[a-z]*.py")
        },
    }
    PAGES.mkdir(exist_ok=True)
    for old in PAGES.glob("*.md"):
        if old.stem not in made:
            old.unlink()
    for name, text in made.items():
        page = PAGES / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
