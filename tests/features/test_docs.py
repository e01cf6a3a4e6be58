"""The page's code runs, top to bottom."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "features.md"


@pytest.mark.slow
def test_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), PAGE.name, "exec"), {})
