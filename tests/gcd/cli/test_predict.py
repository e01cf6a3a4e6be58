"""`eagc predict`: every kind of item, every format, what is bad, and exit codes."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from eagc_jax.gcd import (
    ClusteringSettings,
    DiscoverSettings,
    SourceSettings,
    backbones,
    cli,
    discover,
)
from eagc_jax.gcd.backbones import registry
from eagc_jax.gcd.prediction import files, items, load_predictor
from eagc_jax.gcd.prediction.predictor import COLUMNS
from tests.gcd import clouds
from tests.gcd.bad_input import write_photos
from tests.gcd.prediction import made


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Each test in a folder of its own, with tiny backbones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_CACHE", str(tmp_path / "cache"))
    backbones.names()  # finds them all, before the list is copied
    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))

    @backbones.register("mean-colour")
    def load_colour(weights, *, compute_dtype, image_size, checkpoint):
        return backbones.callable_backbone(
            lambda images: [image.mean((0, 1)) / 255.0 for image in images],
            "image",
            3,
            version=str(image_size),
        )

    @backbones.register("rows")
    def load_rows(weights, *, compute_dtype, image_size, checkpoint):
        return backbones.callable_backbone(
            lambda texts: clouds.features()[[int(text) for text in texts]],
            "text",
            clouds.WIDTH,
            version="1",
        )

    return tmp_path


def eagc(*arguments):
    return cli.main([str(argument) for argument in arguments])


def saved(folder="run", run="first"):
    os.makedirs(folder, exist_ok=True)
    made.predictor(run).save(folder)
    return folder


def of_texts():
    """A run on texts, which are numbers of rows of the clouds."""
    table = [("text", "label"), *zip(map(str, range(48)), clouds.labels(), strict=True)]
    with open("old.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    settings = DiscoverSettings(
        SourceSettings("old.csv"),
        backbone=backbone("rows"),
        clustering=ClusteringSettings(num_classes=4),
        quick=True,
    )
    found = discover(settings)
    os.makedirs("texts")
    found.predictor.save("texts")
    return "texts"


def backbone(name):
    from eagc_jax.gcd import BackboneSettings

    return BackboneSettings(name)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_embeddings_are_printed_as_csv(capsys):
    np.save("new.npy", clouds.features())
    assert eagc("predict", saved(), "new.npy") == 0
    told = capsys.readouterr()
    rows = rows_of(told.out)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["item"] for row in rows] == [str(i) for i in range(48)]
    whole = made.predictor().predict(clouds.features())
    assert [row["name"] for row in rows] == whole.name
    assert [int(row["cluster"]) for row in rows] == whole.clusters.tolist()
    assert [row["nearest_labeled"] for row in rows] == whole.nearest_labeled
    given = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(given, whole.probability, atol=1e-6)
    kinds = {row["known_or_novel"] for row in rows if row["name"].startswith("novel")}
    assert kinds == {"novel"}
    assert {row["unlike_anything_seen"] for row in rows} <= {"True", "False"}
    assert told.err == ""


def test_each_format_says_the_same(monkeypatch, capsys):
    monkeypatch.setitem(items._ROWS, "embedding", 7)  # seven chunks
    ids = np.array([f'a "{i}",\n\u00e4' for i in range(48)])
    np.savez("new.npz", embeddings=clouds.features(), ids=ids)
    run = saved()
    for end in ("csv", "jsonl", "parquet"):
        assert eagc("predict", run, "new.npz", "--to", f"found.{end}") == 0
        told = capsys.readouterr().out
        assert f"wrote found.{end}: 48 items in" in told
    with open("found.csv", newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    with open("found.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    table = pyarrow.parquet.read_table("found.parquet").to_pylist()
    assert [row["item"] for row in plain] == ids.tolist()
    for one, other, third in zip(plain, lines, table, strict=True):
        assert list(one) == list(other) == list(third) == list(COLUMNS)
        for name in ("item", "name", "known_or_novel", "nearest_labeled"):
            assert one[name] == other[name] == third[name]
        for name in ("probability", "similarity"):
            assert float(one[name]) == other[name]
            assert other[name] == pytest.approx(third[name], abs=1e-6)
        flags = one["unlike_anything_seen"], other["unlike_anything_seen"]
        assert flags == (
            str(third["unlike_anything_seen"]),
            third["unlike_anything_seen"],
        )
        assert int(one["cluster"]) == other["cluster"] == third["cluster"]
    assert not [name for name in os.listdir() if name.endswith(".partial")]


def test_parquet_of_embeddings_and_several_sources(capsys):
    lists = [row.tolist() for row in clouds.features()[:5]]
    lists[2] = [1.0]
    table = pa.table({"id": list("abcde"), "embedding": lists})
    pyarrow.parquet.write_table(table, "new.parquet")
    np.save("new.npy", clouds.features()[:2])
    assert eagc("predict", saved(), "new.parquet", "new.npy") == 3
    told = capsys.readouterr()
    names = ["new.parquet:a", "new.parquet:b", "new.parquet:d", "new.parquet:e"]
    assert [row["item"] for row in rows_of(told.out)] == [
        *names,
        "new.npy:0",
        "new.npy:1",
    ]
    assert "left out new.parquet:c: should be a list of 8 numbers" in told.err


def test_texts_of_tables_and_lines(capsys):
    run = of_texts()
    with open("new.csv", "wb") as file:
        file.write(b"text,id\n7,first\n,second\n\xff\xfe,third\n11,fourth\n")
    assert eagc("predict", run, "new.csv") == 3
    told = capsys.readouterr()
    rows = rows_of(told.out)
    assert [row["item"] for row in rows] == ["first", "fourth"]
    found = load_predictor(run).predict(clouds.features()[[7, 11]])
    assert [row["name"] for row in rows] == found.name
    assert "left out second: the text is empty" in told.err
    assert "left out third: the text is not UTF-8" in told.err
    pyarrow.parquet.write_table(pa.table({"text": ["7", "11"]}), "new.parquet")
    with open("new.txt", "w") as file:
        file.write("\ufeff7\n\n11\n")
    for source, names in (("new.parquet", ["0", "1"]), ("new.txt", ["0", "2"])):
        assert eagc("predict", run, source) == 0
        again = rows_of(capsys.readouterr().out)
        assert [row["item"] for row in again] == names
        assert [row["name"] for row in again] == found.name


def of_photos():
    write_photos("photos", count=4)
    settings = DiscoverSettings(
        SourceSettings("photos"),
        backbone=backbone("mean-colour"),
        clustering=ClusteringSettings(num_classes=3),
        quick=True,
    )
    os.makedirs("colours")
    discover(settings).predictor.save("colours")
    return "colours"


def test_photos_in_folders_and_by_themselves(capsys):
    run = of_photos()
    os.makedirs("inbox/deep")
    Image.new("RGB", (4, 4), (240, 5, 5)).save("inbox/deep/one.png")
    with open("inbox/broken.jpg", "wb") as file:
        file.write(b"no image")
    with open("inbox/notes.doc", "w") as file:
        file.write("no image by its name")
    Image.new("RGB", (4, 4), (0, 0, 255)).save("two.png")
    assert eagc("predict", run, "inbox", "two.png") == 3
    told = capsys.readouterr()
    rows = rows_of(told.out)
    both = [(row["item"], row["name"]) for row in rows]
    assert both == [("inbox/deep/one.png", "red"), ("two.png", "novel-1")]
    assert "left out inbox/broken.jpg: is no image" in told.err
    assert "left out inbox/notes.doc: is no image by its name" in told.err
    assert eagc("predict", run, "two.png", "photos/labeled/red/red0.png") == 0
    told = capsys.readouterr()
    assert [row["item"] for row in rows_of(told.out)] == [
        "two.png",
        "photos/labeled/red/red0.png",
    ]
    with open("paths.csv", "w") as file:
        file.write("path\ntwo.png\ngone.png\n")
    assert eagc("predict", run, "paths.csv") == 3
    told = capsys.readouterr()
    assert [row["item"] for row in rows_of(told.out)] == ["0"]
    assert "left out 1: there is no such file" in told.err


def test_many_bad_items_are_counted(capsys):
    rows = np.full((30, 8), np.nan, np.float32)
    rows[4] = 1
    np.save("new.npy", rows)
    assert eagc("predict", saved(), "new.npy") == 3
    told = capsys.readouterr()
    assert len(rows_of(told.out)) == 1
    assert told.err.count("\n") == 21
    assert "left out 9 more, 29 in all" in told.err


def test_a_backbone_that_is_another_one(capsys):
    run = of_photos()
    path = f"{run}/{files.PLAIN}"
    with open(path) as file:
        plain = json.load(file)
    plain["backbone"]["settings"]["image_size"] = 5
    with open(path, "w") as file:
        json.dump(plain, file)
    assert eagc("predict", run, "photos") == 2
    assert "the backbone should be the discovery's" in capsys.readouterr().err


CANNOT = {
    "nothing there": (["gone.npy"], "'?gone.npy'? was not found"),
    "another width": (["narrow.npy"], "must have 8 numbers each.*got 3"),
    "texts for a run on embeddings": (["new.txt"], "holds texts; the discovery was of"),
    "what is it": (["new.doc"], "found a file that ends in '.doc'"),
    "a format": (["new.npy", "--to", "found.xlsx"], "ends in .csv, .jsonl or .parquet"),
    "a file that is there": (["new.npy", "--to", "there.csv"], "is there already"),
    "no items": ([], "ITEMS"),
    "batches": (["new.npy", "--batch-size", "0"], "--batch-size must be at least 1"),
}


@pytest.mark.parametrize(("arguments", "message"), CANNOT.values(), ids=CANNOT)
def test_what_cannot_be_done(arguments, message, capsys):
    np.save("new.npy", clouds.features())
    np.save("narrow.npy", np.zeros((3, 3), np.float32))
    for name in ("new.txt", "new.doc", "there.csv"):
        with open(name, "w") as file:
            file.write("1\n")
    before = sorted(os.listdir())
    assert eagc("predict", saved(), *arguments) == 2
    told = capsys.readouterr()
    import re

    assert re.search(message, told.err)
    assert told.err.count("\n") == 1
    assert sorted(os.listdir()) == sorted([*before, "run"])
    with open("there.csv") as file:
        assert file.read() == "1\n"


def test_a_file_that_is_replaced(capsys):
    np.save("new.npy", clouds.features())
    with open("there.csv", "w") as file:
        file.write("1\n")
    arguments = ("new.npy", "--to", "there.csv", "--overwrite")
    assert eagc("predict", saved(), *arguments) == 0
    with open("there.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 48


def test_a_folder_that_is_no_run(capsys):
    np.save("new.npy", clouds.features())
    assert eagc("predict", "nowhere", "new.npy") == 2
    assert "model.json" in capsys.readouterr().err


def test_decisions_are_obeyed(capsys):
    from eagc_jax.gcd.decisions import Decision, Decisions, Round

    found = made.discovered()
    clusters = {"novel-1": ("a",), "novel-2": ("b",)}
    rename = Decision("rename", clusters=("novel-1",), name="date, dried")
    junk = Decision("junk", clusters=("novel-2",))
    Decisions((Round("run", clusters, (rename, junk)),)).write("decisions.json")
    np.save("new.npy", clouds.features())
    arguments = ("new.npy", "--decisions", "decisions.json")
    assert eagc("predict", saved(), *arguments) == 0
    rows = rows_of(capsys.readouterr().out)
    numbers = {"novel-1": "date, dried", "novel-2": "junk"}
    plain = made.predictor().predict(clouds.features()).name
    assert [row["name"] for row in rows] == [numbers.get(one, one) for one in plain]
    assert {row["known_or_novel"] for row in rows if row["name"] == "junk"} == {"junk"}
    assert len(found.assignment.names) == 4


@pytest.mark.slow
def test_who_reads_the_output_may_have_seen_enough():
    np.save("new.npy", np.concatenate([clouds.features()] * 2000))
    command = [sys.executable, "-m", "eagc_jax.gcd.cli", "predict", saved(), "new.npy"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0
    assert told == ""
