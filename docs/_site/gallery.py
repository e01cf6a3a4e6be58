"""Makes a page of every example and every notebook, as they are in the repository.

Recipes are notebooks, too: each is made from the program, and its page links to it.
"""

import ast
import json
from pathlib import Path

import as_notebook

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


def from_recipe(path):
    """The same, and where its notebook lies."""
    title, _, rest = from_program(path).partition("\n\n")
    link = f"{{download}}`This page as a notebook <recipe_{path.stem}.ipynb>`"
    return f"{title}\n\n{link}\n\n{rest}"


def fenced(code):
    return f"```python\n{code}\n```"


def pages():
    """The folder's files by name."""
    recipes = sorted(ROOT.glob("examples/recipes/[a-z]*.py"))
    return {
        **{f"{p.stem}.md": from_notebook(p) for p in ROOT.glob("notebooks/*.ipynb")},
        **{f"{p.stem}.md": from_program(p) for p in ROOT.glob("examples/[a-z]*.py")},
        **{f"recipe_{p.stem}.md": from_recipe(p) for p in recipes},
        **{
            f"recipe_{p.stem}.ipynb": as_notebook.of_program(
                p.read_text(encoding="utf-8")
            )
            for p in recipes
        },
    }


def make(app):
    """Writes the pages; those that say the same stay, so that builds stay quick."""
    made = pages()
    PAGES.mkdir(exist_ok=True)
    for old in (*PAGES.glob("*.md"), *PAGES.glob("*.ipynb")):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        page = PAGES / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
