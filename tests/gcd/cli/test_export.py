"""`eagc export`: from a run's folder to what other tools read."""

import csv
import json
import pathlib

import pytest

from eagc_jax.gcd import ClusteringSettings, DiscoverSettings, backbones, cli, discover
from tests.gcd import clouds
from tests.gcd.bad_input import write_photos

FOUR = DiscoverSettings(clustering=ClusteringSettings(num_classes=4), quick=True)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(place):
    discover(clouds.write_npz(place), FOUR, out="run")
    return "run"


def eagc(*arguments):
    return cli.main([str(argument) for argument in arguments])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_becomes_a_table(run, capsys):
    assert eagc("export", run, "--to", "csv") == 0
    told = capsys.readouterr()
    assert told.out.strip().endswith("run.csv: 48 items")
    assert told.err == ""
    assert rows_of("run.csv") == rows_of("run/assignment.csv")
    assert eagc("export", run, "--to", "csv") == 2
    assert "overwrite it with --overwrite" in capsys.readouterr().err
    more = ("--only=novel", "--at-least=0.5", "--overwrite")
    assert eagc("export", run, "--to=csv", *more) == 0
    assert len(rows_of("run.csv")) == 24


def test_photos_of_a_run(capsys, monkeypatch):
    def colours(images):
        return [image.mean((0, 1)) / 255.0 for image in images]

    network = backbones.callable_backbone(colours, "image", 3, version="1")
    three = DiscoverSettings(clustering=ClusteringSettings(num_classes=3), quick=True)
    found = discover(write_photos("photos"), three, backbone=network, out="run")
    monkeypatch.setattr("eagc_jax.gcd.cli.progress._SECONDS", 0.0)
    assert eagc("export", "run", "--to=folders", "--out=sorted", "--copy") == 0
    told = capsys.readouterr()
    assert "sorted: 15 items" in told.out
    lines = told.err.splitlines()
    assert len(lines) == 15
    assert lines[0].startswith("wrote 1 of 15: ")
    assert lines[-1].startswith("wrote 15 of 15: ")
    there = {p.parent.name for p in pathlib.Path("sorted").glob("*/*.png")}
    assert there == set(found.assignment.names) == {"green", "red", "novel-1"}
    assert eagc("export", "run", "--to=coco") == 0
    content = json.loads(
        pathlib.Path("run-coco/annotations/labels_default.json").read_text()
    )
    assert len(content["annotations"]) == 15


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("nowhere", "--to=csv"), "nowhere"),
        (("run", "--to=xml"), "must be one of coco, csv"),
        (("run", "--to=folders"), "choose one of csv, parquet"),
        (("run", "--to=csv", "--at-least=2"), "--at-least must be in [0, 1]"),
        (("run", "--to=csv", "--out=run"), "must be a file that ends in .csv"),
        (("run",), "--to FORMAT"),
        (("clouds.npz", "--to=csv"), "clouds.npz"),
    ],
)
def test_what_is_wrong_is_a_line(run, typed, told, capsys):
    assert eagc("export", *typed) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1, found.err
    assert told in found.err
