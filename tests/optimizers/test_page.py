"""The page's example runs, and the page names what there is."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "optimizer_aware.md"


def test_the_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})


@pytest.mark.parametrize("name", ["adam", "rmsprop", "lion", "contrib.muon", "sgd"])
def test_optimizers_are_named(name):
    assert f"`{name}`" in PAGE.read_text()
