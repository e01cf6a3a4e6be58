"""The page on choosing a method names all there is, and its code runs."""

import contextlib
import inspect
import io
import pathlib
import re

import pytest

import eagc_jax
from eagc_jax import aggregators, gradients, weightings

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "choosing.md").read_text()
METHODS = [
    name
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name))
]
WAYS = [
    name
    for name in gradients.__all__
    if name.startswith(("value_and_grad", "two_phase", "tapped_two", "stale_w"))
    and name != "value_and_gram"
]
# Not methods: a helper of the three of EAGC's stages, and what they share.
OTHERS = ["eagc", "assess_energy", "soft_gate", "sum_objectives", "elastic_projection"]


@pytest.mark.parametrize(
    "name", sorted({*METHODS, *weightings.__all__, *OTHERS, *WAYS})
)
def test_every_method_is_on_the_page(name):
    assert re.search(rf"`(\w+\.)?{name}[`(]", PAGE), name


@pytest.mark.parametrize(
    "name", sorted({*METHODS, "eagc"} - {"accumulate_objectives", "from_weighting"})
)
def test_every_aggregator_has_one_row(name):
    rows = re.findall(rf"^\| `{name}`(?: \(.*?\))? \|.*\|$", PAGE, re.MULTILINE)
    assert len(rows) == 1, (name, rows)
    assert rows[0].count(" | ") == 4


def test_rows_agree_with_the_docstrings_on_the_length():
    """Docstrings say 'Length: "mean".'; the page's column is one of these words."""
    for name in METHODS:
        said = re.search(r'Length:\s+"(\w+)"', getattr(aggregators, name).__doc__)
        row = re.search(rf"^\| `{name}`.*$", PAGE, re.MULTILINE)
        if said and row:
            length = row.group().split(" | ")[3]
            assert length.startswith(said.group(1)), (name, said.group(1), length)


def test_what_the_page_names_exists():
    known = {*dir(eagc_jax), *dir(aggregators), *dir(weightings), *dir(gradients)}
    first_cells = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    assert len(first_cells) > 35
    assert set(first_cells) <= known


def test_the_snippets_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(blocks), "choosing.md", "exec"), names)
    assert "20 steps training on the plain sum" in printed.getvalue()
    assert float(names["losses"]["fit"]) < 0.5  # sin^2 has the mean 1/2
