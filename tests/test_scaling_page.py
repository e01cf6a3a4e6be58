"""The page's code runs, top to bottom, on eight simulated devices."""

import pathlib
import re

import jax

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"


def test_the_page_runs():
    assert len(jax.devices()) >= 8  # simulated: tests/conftest.py
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    exec(compile("\n".join(blocks), PAGE.name, "exec"), names)
    # What was restored is what was saved, on the other mesh.
    for left, right in zip(
        jax.tree.leaves(names["state"]), jax.tree.leaves(names["restored"]), strict=True
    ):
        assert (jax.device_get(left) == jax.device_get(right)).all()
    assert names["restored"][0].method.tracked["out"].sharding.mesh == names["other"]
