"""Data sets without a published split: every second class known, half labeled."""

import json
import zipfile

import numpy as np
import pytest

from eagc_jax.gcd import sources
from tests.gcd.sources.pictures import png, tree


def check_half(records, names):
    """As the definition says, drawn again here."""
    number = len(set(names))
    assert records.num_classes == number
    assert records.num_known == (number + 1) // 2
    classes = np.array(sorted(set(names)))
    order = np.random.default_rng(0).permutation(number)
    assert records.class_names == tuple(classes[order].tolist())
    np.testing.assert_array_equal(np.array(records.class_names)[records.truth], names)
    for c in range(records.num_known):
        assert (records.labels == c).sum() == (records.truth == c).sum() // 2


def questions(folder, name):
    intents = [f"intent_{i * 3 % 5}" for i in range(30)]
    lines = [f'"question {i}, please",{intent}' for i, intent in enumerate(intents)]
    tree(folder, {name: "\n".join(["text,category", *lines]).encode()})
    return intents


@pytest.mark.parametrize("name", ["banking77_train.csv", "train.csv", "my.csv"])
def test_banking77(tmp_path, name):
    intents = questions(tmp_path, name)
    root = tmp_path / name if name == "my.csv" else tmp_path
    records = sources.open_source(f"banking77:{root}")
    check_half(records, intents)
    assert (records.name, records.kind) == ("banking77", "text")
    assert records.items[3] == "question 3, please"
    other = sources.load("banking77", root, seed=1)
    assert other.class_names != records.class_names


def test_banking77_in_a_folder_around_it_and_its_test_part(tmp_path, monkeypatch):
    questions(tmp_path / "text", "banking77_train.csv")
    questions(tmp_path, "text/banking77_test.csv")
    assert len(sources.load("banking77", tmp_path)) == 30
    assert len(sources.load("banking77", tmp_path, part="test")) == 30
    monkeypatch.setenv("EAGC_DATA", str(tmp_path))
    assert len(sources.open_source("banking77")) == 30
    (tmp_path / "text" / "banking77_train.csv").write_text("text,label\na,b\n")
    with pytest.raises(ValueError, match="should have a column 'category'"):
        sources.load("banking77", tmp_path)


def test_clinc150(tmp_path):
    intents = [f"intent_{i % 4}" for i in range(20)]
    train = [[f"request {i}", intent] for i, intent in enumerate(intents)]
    parts = {"train": train, "val": train[:8], "oos_train": [["what", "oos"]]}
    path = tmp_path / "clinc150.json"
    path.write_text(json.dumps(parts))
    for root in (tmp_path, path):
        records = sources.load("clinc150", root)
        check_half(records, intents)
        assert records.items[19] == "request 19"
    assert len(sources.load("clinc150", path, part="val")) == 8
    with pytest.raises(
        ValueError, match="part must be one of train, val, oos_train, g"
    ):
        sources.load("clinc150", path, part="test")
    for content in ("{", '{"train": [["a"]]}', '{"train": 3}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"clinc150\.json should hold lists of"):
            sources.load("clinc150", path)


@pytest.fixture
def shop(tmp_path):
    """Three kinds of apple and a milk, in the original's lists."""
    rows = [
        "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    ]
    fine = ["Gala", "Fuji", "Pink", "Milk"]
    rows += [
        f"{n},{i},{'Milk' if i == 3 else 'Apple'},{i // 3}" for i, n in enumerate(fine)
    ]
    files, names = {"classes.csv": "\n".join(rows).encode()}, []
    for part, number in (("train", 12), ("val", 4), ("test", 8)):
        paths = [f"{part}/X/{fine[i % 4]}_{i}.jpg" for i in range(number)]
        lines = [f"{p}, {i % 4}, {i % 4 // 3}" for i, p in enumerate(paths)]
        files[f"{part}.txt"] = "\n".join(lines).encode() + b"\n"
        files |= {path: png((i, 0, 0)) for i, path in enumerate(paths)}
        names += [fine[i % 4] for i in range(number)]
    with zipfile.ZipFile(tmp_path / "grocery_store.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"grocery/{name}", content)
    tree(tmp_path / "folder", files)
    return tmp_path, names


def test_grocery(shop):
    root, names = shop
    whole = sources.load("grocery", root)  # a folder that holds the zip file
    assert whole.class_names == tuple(
        np.array(["Gala", "Fuji", "Pink", "Milk"])[
            np.random.default_rng(0).permutation(4)
        ]
    )
    np.testing.assert_array_equal(np.array(whole.class_names)[whole.truth], names)
    assert whole.labeled_mask.sum() == 6
    assert whole.parts.tolist() == ["train"] * 12 + ["val"] * 4 + ["test"] * 8
    assert whole.items[13][0, 0, 0] == 1
    for place in (root / "grocery_store.zip", root / "folder"):
        again = sources.load("grocery", place)
        assert again.ids == whole.ids
        np.testing.assert_array_equal(again.labels, whole.labels)
        assert again.items.digest(5) == whole.items.digest(5)
    part = sources.load("grocery", root, parts=["val"], level="coarse")
    assert (len(part), part.num_classes) == (4, 2)


def test_grocery_that_is_broken(shop):
    folder = shop[0] / "folder"
    with pytest.raises(ValueError, match="level must be fine or coarse"):
        sources.load("grocery", folder, level="middle")
    with pytest.raises(ValueError, match=r"parts must be lists of .*, got 'extra'"):
        sources.load("grocery", folder, parts=["extra"])
    (folder / "val.txt").write_text("val/X/Gala_0.jpg, 0, 0\nval/X/gone.jpg, 1, 0\n")
    with pytest.raises(
        ValueError, match=r"lists name; val/X/gone\.jpg or its class is"
    ):
        sources.load("grocery", folder)
    (folder / "val.txt").write_text("val/X/Gala_0.jpg, 9, 0\n")
    with pytest.raises(
        ValueError, match=r"val/X/Gala_0\.jpg or its class is not there"
    ):
        sources.load("grocery", folder)
    (folder / "val.txt").write_text("val/X/Gala_0.jpg\n")
    with pytest.raises(ValueError, match=r"line 1 of val\.txt should have 3 parts"):
        sources.load("grocery", folder)
    (folder / "classes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match=r"classes\.csv should have columns of class n"
    ):
        sources.load("grocery", folder)
