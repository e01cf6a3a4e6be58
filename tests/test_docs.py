"""The pages: their code runs, their commands exist, their links lead somewhere.

A block of Python that can't run where the tests run begins with a comment that says so,
which a reader sees, too: ``# Not run by the tests: why``. Blocks of a shell are not run;
that what they name exists is looked up.
"""

import importlib.util
import re
from pathlib import Path

import pytest

import eagc_jax

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *DOCS,
]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "# Not run by the tests: "
LANGUAGES = {"", "python", "sh", "text", "yaml", "json"}
LANGUAGES |= {"{toctree}", "{eval-rst}", "{include}"}

# Pages whose own test runs their code and looks at what comes out.
TESTED_BY = {
    "choosing.md": "tests/test_choosing.py",
    "extending.md": "tests/gcd/test_extending.py",
    "features.md": "tests/features/test_docs.py",
    "gradients.md": "tests/test_gradient_ways.py",
    "losses.md": "tests/test_losses_page.py",
    "optimizer_aware.md": "tests/optimizers/test_page.py",
    "scaling.md": "tests/test_scaling_page.py",
    "testing.md": "tests/testing/test_docs.py",
}


def blocks(page, language):
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for _, name, code in found if name == language]


def running(page):
    """A page's blocks that run, as one program."""
    return "\n".join(
        code for code in blocks(page, "python") if not code.startswith(NOT_RUN)
    )


def ids(paths):
    return [path.name for path in paths]


HERE = [page for page in PAGES if page.name not in TESTED_BY and running(page)]


@pytest.mark.parametrize("page", HERE, ids=ids(HERE))
def test_code_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    exec(compile(running(page), str(page), "exec"), names)
    # Of a training it is shown that it trains.
    if page.name == "README.md":
        first = names["losses_fn"](names["jax"].numpy.eye(8), names["x"])
        assert sum(names["losses"]) < sum(first)


@pytest.mark.parametrize("name", TESTED_BY)
def test_other_pages_have_a_test_of_their_own(name):
    assert name in (ROOT / TESTED_BY[name]).read_text(encoding="utf-8")
    assert (ROOT / "docs" / name).exists()


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_block_says_what_it_is(page):
    text = page.read_text(encoding="utf-8")
    found = FENCE.findall(text)
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE))
    assert {name for _, name, _ in found} <= LANGUAGES
    for _, name, code in found:
        if name == "python":
            compile(code, page.name, "exec")  # those that don't run, too
        if name == "":  # what was printed: no program that nobody runs
            assert not re.search(r"^(import|from|pip|python|make) ", code, re.MULTILINE)


def test_readme_is_short_and_its_code_is_15_lines():
    """Every word counts: code blocks, tables and links, too."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def commands(page):
    """What the page tells to type: after `python -m`, `make` and `eagc`."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(
        (*blocks(page, "sh"), *re.findall(r"^    \S.*$", text, re.MULTILINE))
    )
    inline = "\n".join(re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", text))
    for line in (*code.splitlines(), *inline.splitlines()):
        line = line.split("#")[0]
        if found := re.search(r"\bpython3? -m ([\w.]+)", line):
            yield "module", found[1].rstrip(".")
        elif found := re.match(r" *make ([a-z-]+)", line):
            yield "make", found[1]
        elif found := re.match(r" *(?:\S*/)?eagc ([a-z][a-z-]*)\b", line):
            yield "eagc", found[1]


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    subcommands = {
        path.stem.replace("_", "-")
        for path in (ROOT / "eagc_jax" / "gcd" / "cli").glob("*.py")
        if " run(self) -> int" in path.read_text(encoding="utf-8")
    }
    assert {"discover", "doctor", "estimate-classes"} <= subcommands
    exists = {
        "module": lambda name: (
            (ROOT / (name.replace(".", "/") + ".py")).exists()
            or importlib.util.find_spec(name) is not None
        ),
        "make": targets.__contains__,
        "eagc": subcommands.__contains__,
    }
    named = {one for page in PAGES for one in commands(page) if "NAME" not in one[1]}
    assert len(named) > 30
    assert [one for one in sorted(named) if not exists[one[0]](one[1])] == []


def anchors(text):
    """What a heading may be called in a link, as on GitHub and on the site."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_to_something(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            if anchor:
                assert anchor in set(anchors(there.read_text("utf-8"))), target


@pytest.mark.parametrize("page", DOCS, ids=ids(DOCS))
def test_every_page_is_in_the_navigation(page):
    """What Sphinx checks, too, for those who have not installed it."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    entries = {line.strip("* ") for line in index.splitlines()}
    assert page.stem in entries or page.stem == "index"


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {eagc_jax.__version__}\n" in text
