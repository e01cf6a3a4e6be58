"""`eagc page` and `eagc label`: from a run to the next one."""

import csv
import json

import pytest

from eagc_jax.gcd import cli
from tests.gcd import clouds


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run in it, made once."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("EAGC_CACHE", str(place / "cache"))
        clouds.write_npz(place)
        quick = ("clouds.npz", "--quick", "--num-classes=4", "--out=run")
        assert cli.main(["discover", *quick]) == 0
        yield place


def assigned(run):
    with open(run / "assignment.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row["assigned"] for row in csv.DictReader(file)}


def test_page_writes_one_file(made, capsys):
    assert cli.main(["page", "run", "--out", "clouds.html"]) == 0
    assert capsys.readouterr().out.startswith("wrote clouds.html: 0.1 MB")
    html = (made / "clouds.html").read_text(encoding="utf-8")
    assert "eagc discover --settings run/settings.json --decisions" in html
    assert cli.main(["page", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_label_and_what_the_next_run_makes_of_it(made, capsys):
    before = assigned(made / "run")
    assert cli.main(["label", "run", "novel-1", "date"]) == 0
    told = capsys.readouterr().out
    assert "cluster 2, novel-1 with 14 items, is now called date" in told
    assert "model.json, model.safetensors, page.html" in told
    assert assigned(made / "run") == {
        name: "date" if one == "novel-1" else one for name, one in before.items()
    }
    names = json.loads((made / "run" / "model.json").read_text())["names"]
    assert names == ["apple", "banana", "date", "novel-2"]
    given = ("--settings=run/settings.json", "--decisions=run/decisions.json")
    assert cli.main(["discover", *given, "--out=next"]) == 0
    assert "26 labeled with 3 known classes" in capsys.readouterr().out
    after = assigned(made / "next")
    assert {n for n, one in after.items() if one == "date"} == {
        n for n, one in before.items() if one == "novel-1"
    }
    assert cli.main(["label", "run", "9", "x"]) == 2
    assert capsys.readouterr().err.startswith("eagc: run has no cluster 9: give a name")
