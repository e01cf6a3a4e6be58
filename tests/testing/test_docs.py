"""docs/testing.md: its code runs, what it prints is as shown, its tables are whole."""

import contextlib
import io
import pathlib
import re
import typing

from eagc_jax import testing

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def test_the_code_runs_and_prints_what_the_page_shows():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "testing.md", "exec"), names)
    # But for the matrix, which is hypothesis's choice: two opposed entries, all else 0.
    matrix, which = r"np\.array\(.*, np\.float32\)", r"objective \d"
    found = re.sub(which, "k", re.sub(matrix, "matrix", printed.getvalue()))
    assert found.startswith("non_conflicting does not hold.")
    assert found in re.sub(which, "k", re.sub(matrix, "matrix", PAGE))


def test_every_property_has_a_definition_on_the_page():
    for literal in (testing.AggregatorProperty, testing.TransformationProperty):
        for name in typing.get_args(literal):
            assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", PAGE, re.MULTILINE), name


def test_the_table_of_claims_is_the_data():
    shown = PAGE.split("<!-- claims -->\n")[1].split("\n<!-- /claims -->")[0]
    assert shown == testing.claims_table()
