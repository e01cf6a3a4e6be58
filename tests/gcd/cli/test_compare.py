"""`eagc compare`: runs of the same data beside each other."""

import json

import numpy as np
import pytest

from eagc_jax.gcd import cli
from eagc_jax.gcd.discover import (
    ClusteringSettings,
    DiscoverSettings,
    SourceSettings,
    discover,
)
from tests.gcd import clouds


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(path, out, number=4, **source):
    source = SourceSettings(str(path), **source)
    clustering = ClusteringSettings(num_classes=number)
    return discover(DiscoverSettings(source, clustering=clustering), out=out)


def compare(*arguments):
    return cli.main(["compare", *map(str, arguments)])


@pytest.fixture
def runs(place):
    path = clouds.write_npz(place)
    return (
        found(path, "four", truth_column="truth"),
        found(path, "three", 3, truth_column="truth"),
    )


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


def test_the_same_twice_and_three_runs(runs, place, capsys):
    found(place / "clouds.npz", "again", truth_column="truth")
    assert compare("four", "again", "three") == 0
    told = capsys.readouterr().out
    assert "0 (0.0 %) changed category" in told
    assert told.count("McNemar") == 2
    assert compare("four", "again") == 0
    assert "all settings are the same" in capsys.readouterr().out


def test_without_truth_there_is_no_accuracy(place, capsys):
    for out in ("a", "b"):
        found(clouds.write(place), out)
    assert compare("a", "b") == 0
    assert "McNemar" not in capsys.readouterr().out
    assert compare("a", "b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["accuracy"] == {}


def test_other_data_is_refused(runs, place, capsys):
    rows = np.roll(clouds.features(), 1, axis=0)
    ids = np.array([f"photo {n}" for n in range(clouds.ROWS)])
    for name, change in (("turned", {"embeddings": rows}), ("photos", {"ids": ids})):
        (place / f"of-{name}").mkdir()
        found(clouds.write_npz(place / f"of-{name}", **change), name)
    capsys.readouterr()
    for run, message in (
        ("turned", "of 48 items with the same id, 48 are not"),
        ("photos", "have no item in common"),
    ):
        assert compare("four", run) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert message in told.err
        assert "clouds.npz" in told.err


def test_an_item_more_is_no_other_data(runs, place, capsys):
    more = place / "more"
    more.mkdir()
    rows = np.concatenate([clouds.features(), clouds.features()[:1]])
    labels = np.array([*clouds.labels(), ""])
    ids = np.array([f"row {n}" for n in range(clouds.ROWS + 1)])
    truth = np.array([clouds.CLASSES[one] for one in (*clouds.truth(), 0)])
    path = clouds.write_npz(more, embeddings=rows, labels=labels, ids=ids, truth=truth)
    found(path, "one-more")
    capsys.readouterr()
    assert compare("four", "one-more") == 0
    assert "48 items in common; 0 and 1 are in one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "told"),
    [(("four",), "two runs or more"), (("four", "no"), "no"), ((), "two runs or more")],
)
def test_what_is_wrong_is_a_line(place, typed, told, capsys):
    found(clouds.write(place), "four")
    capsys.readouterr()
    assert compare(*typed) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert told in line
