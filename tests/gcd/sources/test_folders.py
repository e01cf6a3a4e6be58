"""Folders of photos: both layouts, and what people get wrong with them."""

import os
import pathlib

import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources import listing, strings
from eagc_jax.gcd.sources.records import BadItem
from tests.gcd.sources.pictures import photos, png, tree

IDS = [
    "labeled/cat/a.png",
    "labeled/cat/b.png",
    "labeled/cat/c.png",
    "labeled/dog/a.png",
    "labeled/dog/b.png",
    "unlabeled/1.png",
    "unlabeled/2.png",
    "unlabeled/deep/3.png",
]


def test_labeled_and_unlabeled_folders(tmp_path):
    records = sources.open_source(photos(tmp_path / "pets"))
    assert (records.name, records.kind) == ("pets", "image")
    assert list(records.ids) == IDS
    assert records.labels.tolist() == [0, 0, 0, 1, 1, -1, -1, -1]
    assert records.labels.dtype == np.int32
    assert records.class_names == ("cat", "dog")
    assert (records.num_known, records.truth, records.skipped) == (2, None, ())
    assert records.items[7].shape == (4, 6, 3)
    assert records.items[7][0, 0].tolist() == [63, 0, 0]


def test_class_folders_beside_an_unlabeled_one(tmp_path):
    root = photos(tmp_path)
    for name in ("cat", "dog"):
        (root / "labeled" / name).rename(root / name)
    (root / "labeled").rmdir()
    records = sources.open_source(str(root))
    assert list(records.ids) == [i.removeprefix("labeled/") for i in IDS]
    assert records.labels.tolist() == [0, 0, 0, 1, 1, -1, -1, -1]


def test_british_spelling_and_other_files_at_the_top(tmp_path):
    root = photos(tmp_path)
    (root / "labeled").rename(root / "labelled")
    (root / "unlabeled").rename(root / "unlabelled")
    tree(root, {"README.md": b"", "runs/1/settings.json": b""})
    assert len(sources.open_source(root)) == 8


def test_nothing_is_opened_when_listing(tmp_path):
    root = photos(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    records = sources.open_source(root)
    with pytest.raises(BadItem, match=r"cat/a\.png: the file is empty"):
        records.items[0]


def test_litter_of_systems_is_left_out_silently(tmp_path):
    root = photos(tmp_path)
    names = (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", ".git/x.png")
    tree(root, {f"labeled/cat/{name}": b"" for name in names})
    tree(root, {"unlabeled/__MACOSX/._a.png": b"", "labeled/.hidden/a.png": b""})
    records = sources.open_source(root)
    assert list(records.ids) == IDS
    assert records.skipped == ()


def test_other_files_are_named_or_skipped(tmp_path):
    root = tree(
        photos(tmp_path), {"labeled/cat/notes.txt": b"", "unlabeled/b.mp4": b""}
    )
    message = r"labeled/cat/notes\.txt: is no image by its name, .* \.txt \(and 1 more"
    with pytest.raises(BadItem, match=message):
        sources.open_source(root)
    records = sources.open_source(root, on_bad_item="skip")
    assert list(records.ids) == IDS
    skipped = [item.item for item in records.skipped]
    assert skipped == ["labeled/cat/notes.txt", "unlabeled/b.mp4"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found no labeled folder and no class folders"),
        ({"unlabeled/1.png": b""}, "found no labeled folder and no class folders"),
        ({"1.png": b"", "2.png": b""}, "found no labeled folder"),
        ({"labeled/a/1.png": b"", "labeled/b/1.png": b""}, "no folder of that name"),
        ({"a/1.png": b"", "b/1.png": b""}, "no folder of that name"),
        (
            {"a/1.png": b"", "b/1.png": b"", "unlabeled/.x": b""},
            "found no images in unlabeled",
        ),
        ({"labeled/a/1.png": b"", "unlabeled/1.png": b""}, "known classes, found a"),
        (
            {"labeled/a/1.png": b"", "labeled/b/.x": b"", "unlabeled/1.png": b""},
            "labeled/b should hold images of its class, found none",
        ),
        (
            {n: b"" for n in ("a/1.png", "b/1.png", "0.png", "unlabeled/1.png")},
            r"0\.png and 0 more images in .* lie beside the class folders",
        ),
    ],
)
def test_a_layout_that_lacks_something_is_explained(tmp_path, files, message):
    (tmp_path / "data").mkdir()
    root = tree(tmp_path / "data", files)
    with pytest.raises(ValueError, match=message) as caught:
        sources.open_source(root)
    assert str(root) in str(caught.value)


def test_a_class_without_images_can_be_skipped(tmp_path):
    root = photos(tmp_path)
    (root / "labeled" / "empty").mkdir()
    with pytest.raises(ValueError, match="labeled/empty should hold images"):
        sources.open_source(root)
    assert sources.open_source(root, on_bad_item="skip").class_names == ("cat", "dog")


def test_without_labels_for_embedding_only(tmp_path):
    root = tree(tmp_path, {"b.png": png(), "a.jpg": b""})
    records = sources.open_source(root, require_labels=False)
    assert list(records.ids) == ["a.jpg", "b.png"]
    assert (records.num_known, records.truth) == (0, None)
    assert records.items[1].shape == (4, 6, 3)
    with pytest.raises(ValueError, match="should hold images, found none"):
        sources.open_source(tree(tmp_path / "e", {"x.txt": b""}), require_labels=False)


def test_class_folders_alone_can_be_posed(tmp_path):
    files = {f"{c}/{i}.png": b"" for c in "abcd" for i in range(4)}
    records = sources.open_source(tree(tmp_path, files), require_labels=False)
    posed = sources.pose_half(records)
    assert (posed.num_known, posed.num_classes) == (2, 4)
    assert posed.labeled_mask.sum() == 4


def test_links_are_followed_and_loops_end(tmp_path):
    root = photos(tmp_path / "data")
    elsewhere = tree(tmp_path / "elsewhere", {"z.png": png()})
    (root / "unlabeled" / "linked").symlink_to(elsewhere)
    (root / "unlabeled" / "self").symlink_to(root / "unlabeled")
    (root / "unlabeled" / "deep" / "up").symlink_to(root / "unlabeled")
    (elsewhere / "back").symlink_to(root / "unlabeled" / "deep")
    (root / "labeled" / "cat" / "me").symlink_to(".")
    (root / "labeled" / "dog" / "c.png").symlink_to(elsewhere / "z.png")
    found = list(sources.open_source(root).ids)
    # `back` leads to a folder that isn't around it: listed once more, then no further.
    expected = {*IDS, "labeled/dog/c.png", "unlabeled/linked/z.png"}
    assert set(found) - expected == {"unlabeled/linked/back/3.png"}
    assert expected <= set(found)
    assert len(set(found)) == len(found)


def test_a_link_to_nothing_is_named(tmp_path):
    root = photos(tmp_path)
    (root / "unlabeled" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BadItem, match=r"unlabeled/gone\.png: is a link to a file that"):
        sources.open_source(root)
    assert len(sources.open_source(root, on_bad_item="skip")) == 8


def test_a_link_around_itself_is_named(tmp_path):
    root = photos(tmp_path)
    (root / "unlabeled" / "loop.png").symlink_to(root / "unlabeled" / "loop.png")
    with pytest.raises(BadItem, match=r"loop\.png: is a link"):
        sources.open_source(root)


def test_strange_names_stay_what_they_are(tmp_path):
    names = ["a\nb.png", "<b>&.png", "ünï.png", "q'\".png", "tab\t.PNG"]
    root = tree(photos(tmp_path), {f"unlabeled/{name}": png() for name in names})
    records = sources.open_source(root)
    assert {f"unlabeled/{name}" for name in names} <= set(records.ids)
    for row in range(len(records)):
        assert records.items[row].shape == (4, 6, 3)


def test_a_name_that_is_not_utf8_can_be_opened_and_printed(tmp_path):
    root = photos(tmp_path)
    path = os.fsencode(root / "unlabeled") + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(png())
    records = sources.open_source(root)
    row = list(records.ids).index(r"unlabeled/caf\xe9.png")
    assert records.items[row].shape == (4, 6, 3)


def test_a_listing_is_sorted_also_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(strings, "_BLOCK", 3)
    names = [f"{i * 7 % 10}.png" for i in range(10)]
    tree(tmp_path, {f"u/{name}": b"" for name in names})
    found = listing.list_images(str(tmp_path), "u")
    (chunk,) = found.chunks
    assert list(strings.Strings(chunk)) == [f"u/{i}.png" for i in range(10)]


def test_a_folder_of_one_dot_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(photos(tmp_path / "pets"))
    assert sources.open_source(pathlib.Path(".")).name == "pets"
