"""What each format writes, against what the tools' own pages say of it."""

import csv
import json
import os
import pathlib
import urllib.parse
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from eagc_jax.gcd import export as room
from eagc_jax.gcd import sources
from eagc_jax.gcd.export import export, names, targets
from eagc_jax.gcd.runs.assignment import COLUMNS
from eagc_jax.gcd.settings.choices import SourceSettings
from tests.gcd.export.made import HOSTILE, assignment, photos, texts

NAMES = ("apple", "banana", "novel-1", "novel-2")
CLUSTERS = (0, 1, 0, 2, 2, 3)
FORMATS = ("coco", "csv", "fiftyone", "folders", "label-studio", "parquet")


@pytest.fixture
def album(tmp_path):
    """Six photos of different sizes, the last one turned; rows 0 and 1 are labeled."""
    folder = tmp_path / "album"
    folder.mkdir()
    files = [f"p{number}.png" for number in range(5)] + ["turned.jpg"]
    for number, name in enumerate(files):
        picture = Image.new("RGB", (4 + number, 3), (40 * number, 0, 0))
        exif = picture.getexif()
        exif[0x0112] = 6 if name == "turned.jpg" else 1
        picture.save(folder / name, exif=exif)
    found = assignment(tuple(files), CLUSTERS, NAMES, labeled=(0, 1))
    return photos(folder, files, ids=files), found


@pytest.fixture
def mail():
    rows = ["hello", 'say "hi", twice', "two\nlines", "<b>bold</b>", "ü", "=1+1"]
    ids = tuple(map(str, range(6)))
    return texts(rows), assignment(ids, CLUSTERS, NAMES, labeled=(0, 1))


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder):
    paths = sorted(pathlib.Path(folder).rglob("*"))
    return [p.relative_to(folder).as_posix() for p in paths if not p.is_dir()]


@pytest.mark.parametrize(
    ("to", "data", "copy"),
    [
        ("folders", "album", False),
        ("folders", "mail", False),
        ("coco", "album", True),
        ("fiftyone", "album", False),
        ("fiftyone", "mail", False),
        ("label-studio", "album", True),
        ("label-studio", "mail", False),
    ],
)
def test_it_tells_how_far_it_is(request, tmp_path, to, data, copy):
    told = []
    export(
        *request.getfixturevalue(data),
        tmp_path / "out",
        to,
        copy=copy,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 6) for done in range(1, 7)]


def test_every_format_is_found():
    assert tuple(room.formats()) == FORMATS


def test_csv_is_the_assignment(mail, tmp_path):
    done = export(*mail, tmp_path / "a.csv", "csv")
    assert (done.path, done.items) == (tmp_path / "a.csv", 6)
    rows = rows_of(done.path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["assigned"] for row in rows] == mail[1].assigned
    assert [row["label"] for row in rows] == ["apple", "banana", "", "", "", ""]


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_the_tables_own_columns_come_along(to, tmp_path):
    header = ("id", "text", "label", "who", "margin")
    lines = [(f"t{n}", f"text {n}", "", f"user\n{n}", n) for n in range(6)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    records = sources.open_source(tmp_path / "t.csv", require_labels=False)
    found = assignment(tuple(records.ids), CLUSTERS, NAMES)
    source = SourceSettings(str(tmp_path / "t.csv"))
    out = tmp_path / f"out.{to}"
    export(records, found, out, to, source=source, only="novel")
    rows = (
        rows_of(out) if to == "csv" else [*pyarrow.parquet.read_table(out).to_pylist()]
    )
    assert list(rows[0]) == [*COLUMNS, "text", "who", "original_margin"]
    assert [row["id"] for row in rows] == ["t3", "t4", "t5"]
    assert [row["who"] for row in rows] == ["user\n3", "user\n4", "user\n5"]
    assert [row["original_margin"] for row in rows] == ["3", "4", "5"]
    # What was written is a table that can be discovered in, in turn.
    assert len(sources.open_source(out, require_labels=False)) == 3


def test_parquet_keeps_types_and_csv_leaves_lists_out(tmp_path):
    table = {"embedding": [[1.0, 0.0], [0.0, 1.0]], "n": [3, 4], "label": ["a", None]}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "e.parquet")
    source = SourceSettings(str(tmp_path / "e.parquet"))
    records = sources.open_source(source.data, require_labels=False)
    found = assignment(("0", "1"), [0, 1], NAMES)
    export(records, found, tmp_path / "o.parquet", "parquet", source=source)
    kept = pyarrow.parquet.read_table(tmp_path / "o.parquet")
    assert kept["n"].to_pylist() == [3, 4]
    assert kept["embedding"].to_pylist() == table["embedding"]
    done = export(records, found, tmp_path / "o.csv", "csv", source=source)
    assert done.notes == ("left out, because CSV holds no lists: embedding",)
    assert list(rows_of(tmp_path / "o.csv")[0]) == [*COLUMNS, "n"]


def test_a_table_that_has_changed_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("text\na\nb\n")
    source = SourceSettings(str(tmp_path / "t.csv"))
    records = texts(["a", "b", "c"])
    found = assignment(("0", "1", "2"), [0, 1, 2], NAMES)
    with pytest.raises(ValueError, match=r"t.csv has no item 2 any more"):
        export(records, found, tmp_path / "o.csv", "csv", source=source)
    assert files_in(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("copy", [False, True])
def test_folders_come_back_as_classes(album, tmp_path, copy):
    done = export(*album, tmp_path / "out", "folders", copy=copy)
    read = sources.open_source(done.path, require_labels=False)
    assert [read.class_names[one] for one in read.labels] == sorted(album[1].assigned)
    assert {pathlib.Path(one).name for one in read.ids} == set(album[0].ids)
    for row in range(6):
        np.testing.assert_array_equal(
            read.items[row],
            album[0].items[album[0].ids.index(pathlib.Path(read.ids[row]).name)],
        )
    assert (tmp_path / "out/apple/p0.png").is_symlink() != copy
    assert len(files_in(tmp_path / "album")) == 6  # nothing was moved
    classes = rows_of(tmp_path / "out/classes.csv")
    assert [row["category"] for row in classes] == list(NAMES)
    assert [row["items"] for row in classes] == ["2", "1", "2", "1"]


def test_folders_of_texts(mail, tmp_path):
    export(*mail, tmp_path / "out", "folders")
    from sklearn.datasets import load_files

    read = load_files(tmp_path / "out", encoding="utf-8", shuffle=False)
    assert read.target_names == list(NAMES)
    found = {
        (read.target_names[one], text)
        for one, text in zip(read.target, read.data, strict=True)
    }
    assert found == set(zip(mail[1].assigned, mail[0].items.strings, strict=True))


def test_coco(album, tmp_path):
    export(*album, tmp_path / "out", "coco", copy=True)
    content = json.loads((tmp_path / "out/annotations/labels_default.json").read_text())
    assert {"info", "licenses", "categories", "images", "annotations"} == set(content)
    kinds = ["known", "known", "novel", "novel"]
    assert content["categories"] == [
        {"id": n + 1, "name": name, "supercategory": kind}
        for n, (name, kind) in enumerate(zip(NAMES, kinds, strict=True))
    ]
    for number, image in enumerate(content["images"], start=1):
        assert image["id"] == number
        with Image.open(
            tmp_path / "out/images/default" / image["file_name"]
        ) as picture:
            turned = picture.getexif().get(0x0112) == 6
            size = (image["width"], image["height"])
            assert (size[::-1] if turned else size) == picture.size
    annotations = content["annotations"]
    assert [one["image_id"] for one in annotations] == list(range(1, 7))
    assert [one["id"] for one in annotations] == list(range(1, 7))
    assert [one["category_id"] - 1 for one in annotations] == list(CLUSTERS)
    assert [one["score"] for one in annotations] == [1, 1, 0.7, 0.8, 0.9, 1]
    assert annotations[5]["bbox"] == [0, 0, 3, 9]
    assert all(one["area"] == one["bbox"][2] * one["bbox"][3] for one in annotations)


def check_tasks(folder, found, key):
    """As https://labelstud.io/guide/predictions says; returns the items."""
    config = ElementTree.parse(folder / "config.xml").getroot()
    assert config.tag == "View"
    item = config.find("Text" if key == "text" else "Image")
    choices = config.find("Choices")
    assert item.get("value") == f"${key}"
    assert choices.get("toName") == item.get("name")
    names_ = [one.get("value") for one in choices]
    tasks = json.loads((folder / "tasks.json").read_text())
    assert len(tasks) == len(found)
    for row, task in enumerate(tasks):
        assert isinstance(task["data"][key], str)
        labeled = found.labels[row] >= 0
        [told] = task["annotations" if labeled else "predictions"]
        assert set(task) == {"data", "annotations" if labeled else "predictions"}
        [result] = told["result"]
        assert result["type"] == "choices"
        assert result["from_name"] == choices.get("name")
        assert result["to_name"] == item.get("name")
        assert result["value"]["choices"] == [names_[found.clusters[row]]]
        if not labeled:
            assert told["score"] == pytest.approx(found.probability[row], abs=1e-6)
            assert told["model_version"].startswith("eagc_jax ")
    return [task["data"][key] for task in tasks]


def test_label_studio_of_texts(mail, tmp_path):
    export(*mail, tmp_path / "out", "label-studio")
    told = check_tasks(tmp_path / "out", mail[1], "text")
    assert told == list(mail[0].items.strings)


@pytest.mark.parametrize("copy", [False, True])
def test_label_studio_of_photos(album, tmp_path, copy):
    done = export(*album, tmp_path / "out", "label-studio", copy=copy)
    urls = check_tasks(tmp_path / "out", album[1], "image")
    root = done.notes[1].split("DOCUMENT_ROOT=")[1].split(", and")[0]
    storage = done.notes[1].split("add ")[1].split(" to the")[0]
    for row, url in enumerate(urls):
        path = urllib.parse.parse_qs(urllib.parse.urlparse(url).query)["d"][0]
        place = pathlib.Path(root, path)
        assert place.read_bytes() == pathlib.Path(album[0].items.path(row)).read_bytes()
        assert pathlib.Path(storage) in place.parents
        assert str(storage) != root  # Label Studio wants a folder below the root


def test_fiftyone(album, tmp_path):
    export(*album, tmp_path / "out", "fiftyone")
    content = json.loads((tmp_path / "out/labels.json").read_text())
    assert content["classes"] == list(NAMES)
    # As FiftyOne's importer: files of data/ by name without the ending.
    there = {os.path.splitext(one)[0] for one in os.listdir(tmp_path / "out/data")}
    assert there == set(content["labels"])
    assert len(there) == 6
    for row, label in enumerate(content["labels"][name] for name in sorted(there)):
        assert set(label) == {"label", "confidence", "attributes"}
        assert label["label"] == CLUSTERS[row]
        assert label["attributes"]["item"] == album[0].ids[row]
        assert label["attributes"].get("given") == [*NAMES[:2], *[None] * 4][row]


def test_fiftyone_has_no_texts(mail, tmp_path):
    done = export(*mail, tmp_path / "out", "fiftyone")
    assert "FiftyOne has no texts" in done.notes[0]
    lines = (tmp_path / "out/samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == list(mail[0].items.strings)
    assert [json.loads(line)["label"] for line in lines] == mail[1].assigned


def test_photos_of_an_array_become_files(tmp_path):
    digits = sources.load("digits").select(range(6))
    found = assignment(tuple(digits.ids), CLUSTERS, NAMES)
    for to in ("folders", "coco", "fiftyone", "label-studio"):
        export(digits, found, tmp_path / to, to)
    with Image.open(tmp_path / "folders/apple/0.png") as picture:
        back = np.asarray(picture) / 255
    np.testing.assert_allclose(back, digits.items[0][..., 0], atol=1 / 500)
    assert files_in(tmp_path / "label-studio/images") == [f"{n}.png" for n in range(6)]


@pytest.mark.parametrize("to", ["folders", "coco", "label-studio", "fiftyone"])
def test_hostile_names_stay_inside(to, tmp_path):
    number = len(HOSTILE)
    (tmp_path / "photos").mkdir()
    for row in range(number):
        (tmp_path / f"photos/{row}").mkdir()
        Image.new("RGB", (2, 2), (row, 0, 0)).save(tmp_path / f"photos/{row}/same.png")
    files = [f"{row}/same.png" for row in range(number)]
    records = photos(tmp_path / "photos", files, ids=HOSTILE)
    found = assignment(HOSTILE, range(number), HOSTILE, num_known=number)
    before = files_in(tmp_path)
    out = tmp_path / "deep" / "out"
    export(records, found, out, to, copy=True)
    after = [one for one in files_in(tmp_path) if not one.startswith("deep/out/")]
    assert after == before
    for name in files_in(out):
        for part in name.split("/"):
            assert len(part.encode()) <= 255
    if to == "folders":
        classes = rows_of(out / "classes.csv")
        assert len({row["folder"].casefold() for row in classes}) == number
        read = sources.open_source(out, require_labels=False)
        assert len(read) == number
        for row in range(number):  # each in a folder of its own, which tells its class
            of = {one["folder"]: one["category"] for one in classes}
            category = of[read.class_names[read.labels[row]]]
            shade = read.items[row][0, 0, 0]
            assert (
                category == HOSTILE[shade].encode("utf-8", "backslashreplace").decode()
            )
    if to == "label-studio":
        check_tasks(out, found, "image")
    if to == "coco":
        content = json.loads((out / "annotations/labels_default.json").read_text())
        assert len({one["name"] for one in content["categories"]}) == number
        assert len({one["file_name"] for one in content["images"]}) == number


@pytest.mark.parametrize("name", HOSTILE)
def test_safe_names_are_one_part_of_a_path(name):
    found = names.safe(name, ending=".jpg")
    assert os.path.basename(found) == found
    assert found.split(".")[0].lower() not in ("con", "aux", "")
    assert found.isprintable()
    assert not found.startswith(".")
    assert names.safe(names.safe(name)) == names.safe(name)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, range(6)),
        ({"only": "unlabeled"}, [2, 3, 4, 5]),
        ({"only": "novel"}, [3, 4, 5]),
        ({"only": "novel", "at_least": 0.85}, [4, 5]),
        ({"at_least": 0.85}, [0, 1, 4, 5]),  # the labeled ones stay
    ],
)
def test_some_items_only(mail, tmp_path, options, rows):
    done = export(*mail, tmp_path / "a.csv", "csv", **options)
    assert [int(row["id"]) for row in rows_of(done.path)] == list(rows)


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("xml", {}, "must be one of coco, csv, fiftyone"),
        ("csv", {"only": "some"}, "only must be one of all, unlabeled, novel"),
        ("csv", {"at_least": 1.5}, r"at_least must be in \[0, 1\]"),
        ("csv", {"only": "novel", "at_least": 1.0}, "no item is left.*is 0.900"),
        ("coco", {}, "format 'coco' holds items of kind image.*of kind text.*csv"),
    ],
)
def test_what_can_not_be_exported(mail, tmp_path, to, options, message):
    records, found = mail
    if options.get("at_least") == 1.0:
        records, found = records.select(range(5)), room.registry._part(found, range(5))
    with pytest.raises(ValueError, match=message):
        export(records, found, tmp_path / "out.csv", to, **options)
    assert not files_in(tmp_path)


def test_embeddings_have_no_photos(tmp_path):
    items = sources.ArrayItems(np.eye(2, dtype=np.float32))
    labels = np.full(2, -1)
    records = sources.Records("e", "embedding", items, ("a", "b"), labels, ("x",), 1)
    found = assignment(("a", "b"), [0, 1], NAMES)
    with pytest.raises(ValueError, match="choose one of csv, parquet"):
        export(records, found, tmp_path / "out", "folders")


def test_files_are_replaced_only_when_asked(mail, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        export(*mail, tmp_path / "a.csv", "csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    export(*mail, tmp_path / "a.csv", "csv", overwrite=True)
    assert len(rows_of(tmp_path / "a.csv")) == 6
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        export(*mail, tmp_path / "a.txt", "csv")


def test_folders_are_replaced_only_where_they_are_ours(mail, tmp_path):
    out = tmp_path / "out"
    export(*mail, out, "folders")
    export(*mail, out, "folders", only="novel")
    assert not (out / "apple").exists()
    (out / "novel-1" / "note.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"novel-1/note\.txt, which no export wrote"
    ):
        export(*mail, out, "label-studio")
    assert (out / "novel-1" / "note.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / targets.MANIFEST).write_text('{"files": ["thesis.txt"]}')  # no mark
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        export(*mail, other, "folders")
    (tmp_path / "link").symlink_to(out)
    for place in ("link", "a.file"):
        (tmp_path / "a.file").write_text("mine")
        with pytest.raises(FileExistsError, match="is no folder"):
            export(*mail, tmp_path / place, "folders", overwrite=True)


@pytest.mark.parametrize("to", FORMATS)
def test_whole_or_not_at_all(album, tmp_path, monkeypatch, to):
    """A photo is gone, or the disk is full, after something was written."""
    out = tmp_path / f"out{room.formats()[to]}"
    if to in ("csv", "parquet"):
        full = OSError(28, "No space left on device")

        def replace(*paths):
            raise full

        monkeypatch.setattr(targets.os, "replace", replace)
        message = "could not be written"
    else:
        place = pathlib.Path(album[0].items.path(4))
        if to == "label-studio":
            monkeypatch.setattr(room.label_studio, "_config", _full)
            message = "could not be written"
        else:
            place.unlink()
            message = "there is no such file"
    before = files_in(tmp_path)
    with pytest.raises((OSError, ValueError), match=message):
        export(*album, out, to)
    assert files_in(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["album"]


def _full(*arguments):
    raise OSError(28, "No space left on device")


def test_a_failed_second_export_leaves_the_first(album, tmp_path):
    export(*album, tmp_path / "out", "coco")
    before = files_in(tmp_path / "out")
    pathlib.Path(album[0].items.path(4)).unlink()
    with pytest.raises(sources.BadItem):
        export(*album, tmp_path / "out", "coco")
    assert files_in(tmp_path / "out") == before
