"""docs/extending.md runs as it stands: a source, a backbone, a method, a format."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from eagc_jax.gcd import backbones, export, sources
from eagc_jax.gcd.methods import METHODS
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.settings.plain import from_plain
from eagc_jax.gcd.settings.running import RunSettings

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page():
    """What the page's code defines, after it ran from top to bottom."""
    found = {"__name__": "extending"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    yield found
    METHODS.pop("agreement")
    sources.unregister("rings")
    export.unregister("one-json")


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


def test_the_format_is_one_of_all(page, tmp_path):
    assert export.formats()["one-json"] == ".json"
    records = page["records"].select([0, 100])
    ones = np.ones(2)
    found = Assignment(
        *(tuple(records.ids), records.labels, np.array([0, 4]), ("one", *"bcde"), 1),
        *(ones, ones, ones),
    )
    done = export.export(records, found, tmp_path / "a.json", "one-json")
    assert done.notes == ("any program reads it",)
    assert json.loads(done.path.read_text()) == {"0": "one", "100": "e"}
