"""`eagc compare`: runs of the same data beside each other."""

import dataclasses
import json
import re

import numpy as np
import pytest

from eagc_jax.gcd import (
    ClusteringSettings,
    DiscoverSettings,
    SourceSettings,
    cli,
    discover,
)
from eagc_jax.gcd.evaluation.rehearsal import Rehearsal
from eagc_jax.gcd.evaluation.rehearsal.result import Interval, Rated, Trial
from eagc_jax.gcd.settings.running import on_features
from tests.gcd import clouds

TRUTH = {"truth_column": "truth"}


def settings(path, number=4, **source):
    source = SourceSettings(str(path), **source)
    return DiscoverSettings(
        source, clustering=ClusteringSettings(num_classes=number), quick=True
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with clouds.npz and two runs on it, and what they found."""
    folder = tmp_path_factory.mktemp("runs")
    path = clouds.write_npz(folder)
    four = discover(settings(path, **TRUTH), out=folder / "four")
    three = discover(settings(path, 3, **TRUTH), out=folder / "three")
    return folder, four, three


@pytest.fixture
def runs(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[1:]


def again(run, out, path, ids=None, **source):
    """The same run, as if it were of other data."""
    assignment = run.assignment
    if ids is not None:
        assignment = dataclasses.replace(assignment, ids=tuple(ids))
    changed = dataclasses.replace(
        run, settings=settings(path, **source), assignment=assignment
    )
    changed.write(out)


def compare(*arguments):
    return cli.main(["compare", *map(str, arguments)])


def test_a_run_of_fewer_classes_has_merged_some(runs, capsys):
    assert compare("four", "three") == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0].split() == ["four", "three"]
    assert any(line.split() == ["classes", "4", "3"] for line in lines)
    assert any(line.split() == ["clustering.num_classes", "4", "3"] for line in lines)
    assert any(line.split()[:2] == ["All", "1.000"] for line in lines)
    assert "settings that differ" in told
    assert "36 items that are not labeled in both" in told
    assert "apple (15) was merged out of novel-2 (10), apple (5)" in told
    assert "All: -0.139 [" in told
    assert "bootstrap over items" in told
    assert "McNemar" in told


def test_json_has_every_item_that_changed(runs, capsys):
    assert compare("four", "three", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    [pair] = content["pairs"]
    four = runs[0].assignment
    changed = {row for row, name in enumerate(four.assigned) if name == "novel-2"}
    assert {one["id"] for one in pair["changed"]} == {f"row {row}" for row in changed}
    assert {(one["first"], one["second"]) for one in pair["changed"]} == {
        ("novel-2", "apple")
    }
    # One cluster of apples and dates is matched with the dates, of which are more.
    apples = [four.assigned[row] for row in np.flatnonzero(four.labels < 0)].count(
        "apple"
    )
    assert pair["accuracy"]["All"]["difference"] == pytest.approx(-apples / 36)
    assert pair["accuracy"]["Old"]["worse"] == apples == 5
    assert pair["accuracy"]["New"]["difference"] == 0
    assert content["differing_settings"]["clustering.num_classes"] == [4, 3]
    assert content["runs"][1]["sizes"] == {"apple": 22, "banana": 12, "novel-1": 14}


def test_the_same_twice_and_three_runs(runs, tmp_path, capsys):
    again(runs[0], tmp_path / "again", "clouds.npz", **TRUTH)
    assert compare("four", tmp_path / "again", "three") == 0
    told = capsys.readouterr().out
    assert "0 (0.0 %) changed category" in told
    assert told.count("McNemar") == 2
    assert compare("four", "four") == 0
    assert "all settings are the same" in capsys.readouterr().out


def test_without_truth_there_is_no_accuracy(runs, tmp_path, capsys):
    again(runs[0], tmp_path / "a", clouds.write_npz(tmp_path, truth=None))
    assert compare(tmp_path / "a", tmp_path / "a") == 0
    assert "McNemar" not in capsys.readouterr().out
    assert compare(tmp_path / "a", tmp_path / "a", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["accuracy"] == {}
    # One of them knows the truth: that is enough.
    assert compare(tmp_path / "a", "four", "--json") == 0
    [pair] = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["accuracy"]["All"]["difference"] == 0


def test_rehearsals_and_training_are_beside_each_other(runs, tmp_path, capsys):
    trial = Trial(0, 4, (1,), (10,), (7,), (5,), (4,), 1.5)
    rated = Rated("trained", (trial,), Interval(0.5, 0.7, 0.8), None, None)
    rehearsal = Rehearsal((rated,), "trained", "because", (), None, 0.5, 0, 1.5)
    path = clouds.write_npz(tmp_path)
    changed = dataclasses.replace(
        runs[0],
        settings=dataclasses.replace(settings(path, **TRUTH), run=on_features()),
        rehearsal=rehearsal,
    )
    changed.write(tmp_path / "trained")
    assert compare("four", tmp_path / "trained") == 0
    told = capsys.readouterr().out
    assert re.search(r"New, rehearsed +- +0\.700 \[0\.500, 0\.800\]", told)
    assert re.search(r"run \(\d+ settings\) +none +given", told)
    assert "run.training" not in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.roll(clouds.features(), 1, axis=0)}, "48 are not"),
        ({"ids": [f"photo {n}" for n in range(clouds.ROWS)]}, "no item in common"),
    ],
)
def test_other_data_is_refused(runs, tmp_path, change, message, capsys):
    path = clouds.write_npz(tmp_path, **change)
    again(runs[0], tmp_path / "other", path, ids=change.get("ids"))
    assert compare("four", tmp_path / "other") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert message in told.err
    assert str(path) in told.err


def test_some_items_more_are_no_other_data(runs, tmp_path, capsys):
    """The other run has half of the ids, and so has the first."""
    ids = [f"row {n + 24}" for n in range(clouds.ROWS)]
    rows = np.roll(clouds.features(), -24, axis=0)
    path = clouds.write_npz(tmp_path, embeddings=rows, ids=ids)
    again(runs[0], tmp_path / "half", path, ids=ids)
    assert compare("four", tmp_path / "half") == 0
    assert "24 items in common; 24 and 24 are in one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "told"),
    [(("four",), "two runs or more"), (("four", "no"), "no"), ((), "two runs or more")],
)
def test_what_is_wrong_is_a_line(runs, typed, told, capsys):
    assert compare(*typed) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert told in line
