"""docs/extending.md runs as it stands: a source, a backbone and a method."""

import re
from pathlib import Path

import numpy as np
import pytest

from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.methods import METHODS
from eagc_jax.gcd.runs.plain import from_plain
from eagc_jax.gcd.runs.settings import RunSettings

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page():
    """What the page's code defines, after it ran from top to bottom."""
    found = {"__name__": "extending"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    yield found
    METHODS.pop("agreement")
    sources.unregister("rings")


def test_what_it_defines_goes_by_its_name(page):
    assert "rings" in sources.benchmarks()
    assert "radii" in backbones.names()
    assert METHODS["agreement"] is page["Agreement"]
    described = page["settings"].describe()
    assert described["method"] == {
        "name": "agreement",
        "supervised_weight": 0.5,
        "temperature": 0.1,
    }
    assert from_plain(RunSettings, described) == page["settings"]


def test_the_run_finds_the_rings(page):
    history = page["run"].history
    assert history.epochs == [1, 2, 3]
    assert history.decision == "weight"
    # The rings are twenty noise widths apart, and so are their bumps.
    assert history.accuracy[-1].all > 0.95
    assert np.all(np.isfinite(history.losses["unsupervised"]))
