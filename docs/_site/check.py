"""Checks a site that was built: every public name is on it, and it loads nothing.

    python docs/_site/check.py docs/_build/html

A name is public if it is in the `__all__` of a module whose path has no part that
starts with an underscore. It is on the site if it, or the same object under another of
its public names, has an entry there.
"""

import importlib
import pathlib
import re
import sys
import types
import zlib

ROOT = pathlib.Path(__file__).parents[2]
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|embed)\b[^>]*\ssrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b[^>]*\shref=["']?(?:https?:)?//[^>]*>"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^)\s]*""",
    re.IGNORECASE,
)


def public_modules(root=ROOT):
    """Names of the modules that have an `__all__`."""
    for path in sorted((root / "eagc_jax").rglob("*.py")):
        if re.search(r"^__all__ ", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(root).with_suffix("").parts
            if not any(p.startswith("_") and p != "__init__" for p in parts):
                yield ".".join(parts).removesuffix(".__init__")


def missing_names(entries):
    """Public names that have no entry; modules are pages of their own or none."""
    found = {}
    for module in public_modules():
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            found[f"{module}.{name}"] = getattr(loaded, name)
    shown = {id(value) for name, value in found.items() if name in entries}
    for name, value in found.items():
        if name in entries or id(value) in shown or name.endswith("__version__"):
            continue
        if not isinstance(value, types.ModuleType):
            yield name


def entries_of(site):
    """Names of Python objects in the site's inventory."""
    data = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(data).decode().splitlines()
    return {line.split(" ")[0] for line in lines if " py:" in line}


def loads_of(site):
    """What a page, a style sheet or a script would fetch from another host."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css"):
            for found in LOADS.findall(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(site)}: {found}"


def main(site):
    """Prints what is wrong; returns how much."""
    problems = [
        *(f"not on any API page: {name}" for name in missing_names(entries_of(site))),
        *(f"loads from another host: {found}" for found in loads_of(site)),
    ]
    for problem in problems:
        print(problem)
    pages = len(list(site.rglob("*.html")))
    print(f"{site}: {pages} pages, {len(problems)} problems")
    return len(problems)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(1 if main(pathlib.Path(sys.argv[1])) else 0)
