"""The page on losses, fronts and rewards runs, and says what comes out."""

import contextlib
import io
import pathlib
import re

from eagc_jax.weighted_losses import METHODS

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "losses.md").read_text()


def test_the_snippets_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(blocks), "losses.md", "exec"), names)
    weights = names["of_losses"].weights
    assert weights[0] > 30 * weights[1]  # one loss is a thousand times the other
    by_sum, by_epo = (
        float(re.search(rf"{name} ([0-9.]+)", printed.getvalue()).group(1))
        for name in ("weighted_sum", "epo")
    )
    assert by_epo > 1.5 * by_sum
    assert names["with_level"].shape == names["each"].shape == (2, 4)


def test_every_method_is_named_somewhere():
    words = PAGE.lower().replace("-", "_").replace(" ", "_")
    for name in METHODS:
        assert name in words, name
