"""The page's code runs, top to bottom."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), PAGE.name, "exec"), {})
