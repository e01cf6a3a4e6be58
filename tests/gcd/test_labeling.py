"""A cluster of a run that is finished gets a name: in all files, or not at all."""

import json
import re

import numpy as np
import pytest

from eagc_jax.gcd import labeling
from eagc_jax.gcd.decisions import Decision, apply, read_decisions
from eagc_jax.gcd.report.explorer import write_page
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.assignment import Assignment
from tests.gcd.report.explorer import found


@pytest.fixture
def run(tmp_path):
    """A run's folder, without a model."""
    folder = tmp_path / "run"
    discovery = found.discovery()
    with run_folder.whole(folder) as partial:
        discovery.assignment.write(partial)
        (partial / "settings.json").write_text('{"written_by": "eagc_jax"}')
        write_page(discovery, partial / "page.html", folder=folder)
    return folder


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("cluster", [3, "3", "novel-1"])
def test_by_number_or_by_name(run, cluster):
    done = labeling.label(run, cluster, "bird")
    assert done[:4] == (3, "novel-1", "bird", 10)
    assert "page.html" in done.files
    names = ("cat", "dog", "fox", "bird", "novel-2", "novel-3")
    assert Assignment.read(run).names == names
    assert ",bird,False," in (run / "assignment.csv").read_text()
    data = data_of(run / "page.html")
    assert (data["names"], data["named"]) == (list(names), [3])
    assert data["earlier"][0]["decisions"][0]["name"] == "bird"
    # Only the data has changed: the page still holds what its policy allows.
    assert (run / "page.html").read_text().count("sha256-") == 3


def test_the_next_run_takes_its_items_as_labeled(run):
    labeling.label(run, "novel-1", "bird")
    labeling.label(run, "novel-2", "</script>newt")
    labeling.label(run, "bird", "wren")
    decisions = read_decisions(run / "decisions.json")
    assert [one.decisions for one in decisions.rounds] == [
        (Decision("rename", ("novel-1",), name="bird"),),
        (Decision("rename", ("novel-2",), name="</script>newt"),),
        (Decision("rename", ("bird",), name="wren"),),
    ]
    records, _ = apply(found.discovery().records, decisions)
    assert records.class_names == ("cat", "dog", "fox", "wren", "</script>newt")
    assert np.sum(records.labels == 3) == 10
    assert "</script>newt" not in (run / "page.html").read_text()


def test_what_cannot_be_is_refused_and_nothing_changes(run):
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for cluster, name, message in (
        ("novel-9", "bird", "has no cluster novel-9: give a name, such as novel-3, or"),
        (6, "bird", "a number from 0 to 5"),
        (3, "dog", "dog is another category"),
        (3, "junk", "can't be called junk"),
        (3, "a\nb", "no line breaks"),
    ):
        with pytest.raises(ValueError, match=message):
            labeling.label(run, cluster, name)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    with pytest.raises(FileNotFoundError):
        labeling.label(run / "nothing", 3, "bird")


def test_a_page_of_another_kind_is_left_alone(run):
    (run / "page.html").write_text("<p>mine</p>")
    done = labeling.label(run, 3, "bird")
    assert "page.html" not in done.files
    assert (run / "page.html").read_text() == "<p>mine</p>"


def test_the_same_again_heals_what_was_interrupted(run):
    page = (run / "page.html").read_bytes()
    labeling.label(run, 3, "bird")
    (run / "page.html").write_bytes(page)
    labeling.label(run, 3, "bird")
    assert data_of(run / "page.html")["names"][3] == "bird"
