"""The papers' data sets, on small trees of the same layout; no photo is opened."""

import numpy as np
import pytest
from scipy import io

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named import imagenet100
from eagc_jax.gcd.sources.named._splits import class_split
from tests.gcd.sources.pictures import tree

# Facts of the published lists: sizes, and where they begin.
SPLITS = {
    "cub": (100, 100, (150, 70, 34), 200),
    "stanford-cars": (98, 98, (1, 11, 25), 196),
    "fgvc-aircraft": (50, 50, (0, 1, 2), 100),
    "herbarium19": (341, 342, (113, 378, 303), 683),
}
IMAGENET = (
    "1 14 27 31 45 55 77 103 108 141 142 175 196 202 230 231 236 239 247 251 252 261 "
    "262 264 267 270 272 279 295 298 299 306 310 311 316 319 331 366 367 386 389 408 "
    "412 413 432 452 456 481 485 494 496 497 501 531 553 558 568 569 576 578 582 587 "
    "601 614 635 638 643 644 654 672 693 698 706 710 736 738 740 760 783 784 788 790 "
    "796 819 823 859 862 874 883 906 909 918 923 926 957 971 982 987 993 996"
)


@pytest.mark.parametrize("name", SPLITS)
def test_the_published_lists(name):
    known, novel = class_split(name)
    number_known, number_novel, first, number = SPLITS[name]
    assert (len(known), len(novel), known[:3]) == (number_known, number_novel, first)
    assert sorted(known + novel) == list(range(number))


def check(records, name, original):
    """Classes in the list's order; half of the known classes' items, as published."""
    known, novel = class_split(name)
    order = np.array(known + novel)
    np.testing.assert_array_equal(order[records.truth], original)
    assert records.num_known == len(known)
    check_draw(records, np.isin(original, known))


def check_draw(records, is_known):
    candidates = np.flatnonzero(is_known)
    np.random.seed(0)  # noqa: NPY002
    number = len(candidates) // 2
    drawn = np.random.choice(len(candidates), number, replace=False)  # noqa: NPY002
    found = np.flatnonzero(records.labeled_mask)
    np.testing.assert_array_equal(found, np.sort(candidates[drawn]))


def birds(root):
    """200 species, three photos each in turn, of which the second is for testing."""
    species = [f"{i + 1:03d}.Bird_{i}" for i in range(200)]
    rows = [(i, n) for n in range(3) for i in range(200)]
    lists = {"images.txt": "", "image_class_labels.txt": "", "train_test_split.txt": ""}
    for number, (i, n) in enumerate(rows, start=1):
        lists["images.txt"] += f"{number} {species[i]}/Bird_{n}.jpg\n"
        lists["image_class_labels.txt"] += f"{number} {i + 1}\n"
        lists["train_test_split.txt"] += f"{number} {int(n != 1)}\n"
    files = {f"CUB_200_2011/{name}": text.encode() for name, text in lists.items()}
    tree(root, files)
    return species, np.array([i for i, n in rows if n != 1])


def test_cub(tmp_path):
    species, original = birds(tmp_path)
    for root in (tmp_path, tmp_path / "CUB_200_2011"):
        records = sources.load("cub", root)
        check(records, "cub", original)
        assert records.class_names[0] == species[150]
        assert records.ids[200] == "images/001.Bird_0/Bird_2.jpg"
        assert records.items.path(200).endswith("CUB_200_2011/" + records.ids[200])


def test_cub_with_broken_lists(tmp_path):
    birds(tmp_path)
    folder = tmp_path / "CUB_200_2011"
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join([*lines[:2], "3", *lines[3:]]))
    with pytest.raises(
        ValueError, match=r"line 3 of .*images\.txt should have 2 parts"
    ):
        sources.load("cub", tmp_path)
    (folder / "images.txt").write_text("\n".join([*lines, "601 999.More/a.jpg"]))
    with pytest.raises(
        ValueError, match="each image in its class labels, found none f"
    ):
        sources.load("cub", tmp_path)
    (folder / "images.txt").write_text("\n".join(lines[:150]))
    with pytest.raises(ValueError, match="cub should have 200 classes, found 150"):
        sources.load("cub", tmp_path)
    (folder / "train_test_split.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"should hold train_test_split\.txt"):
        sources.load("cub", tmp_path)


def cars(root, classes, names=True):
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    rows = np.empty((1, len(classes)), fields)
    for i, c in enumerate(classes):
        rows[0, i] = (5, int(c) + 1, f"{i + 1:05d}.jpg")
    tree(root, {"cars_train/00001.jpg": b"", "devkit/readme.txt": b""})
    io.savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    if names:
        titles = np.empty((1, 196), object)
        titles[0] = [f"Car {i}" for i in range(196)]
        meta = {"class_names": titles}
        io.savemat(root / "devkit" / "cars_meta.mat", meta)


@pytest.mark.parametrize("names", [True, False])
def test_stanford_cars(tmp_path, names):
    original = np.random.default_rng(0).permutation(np.arange(392) % 196)
    cars(tmp_path, original, names)
    records = sources.load("stanford-cars", tmp_path)
    check(records, "stanford-cars", original)
    assert records.class_names[0] == ("Car 1" if names else "2")
    assert records.ids[1] == "cars_train/00002.jpg"


def test_stanford_cars_with_broken_annotations(tmp_path):
    cars(tmp_path, range(196))
    path = tmp_path / "devkit" / "cars_train_annos.mat"
    io.savemat(path, {"other": 1})
    with pytest.raises(ValueError, match="should hold `annotations`, found none"):
        sources.load("stanford-cars", tmp_path)
    path.write_bytes(b"no matlab")
    with pytest.raises(ValueError, match=r"cars_train_annos\.mat can't be read"):
        sources.load("stanford-cars", tmp_path)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"labels of the test images, .* not need"
    ):
        sources.load("stanford-cars", tmp_path)


def test_fgvc_aircraft(tmp_path):
    original = np.random.default_rng(1).permutation(np.arange(300) % 100)
    lines = [f"{1000 + i} Model {c:02d}-X" for i, c in enumerate(original)]
    tree(
        tmp_path,
        {
            "data/images_variant_trainval.txt": "\n".join(lines).encode(),
            "data/images/1000.jpg": b"",
        },
    )
    records = sources.load("fgvc-aircraft", tmp_path)
    check(records, "fgvc-aircraft", original)
    assert records.class_names[:4] == tuple(f"Model {c:02d}-X" for c in (0, 1, 2, 3))
    assert records.ids[2] == "data/images/1002.jpg"


def test_herbarium19(tmp_path):
    names = [str(i) for i in range(683)]
    tree(tmp_path, {f"small-train/{n}/{j}.jpg": b"" for n in names for j in "ba"})
    records = sources.load("herbarium19", tmp_path)
    folders = sorted(names)  # as text: 10 before 2
    check(records, "herbarium19", np.repeat(np.arange(683), 2))
    assert records.class_names[0] == folders[113]
    assert list(records.ids[:2]) == ["small-train/0/a.jpg", "small-train/0/b.jpg"]
    assert records.ids[4] == "small-train/10/a.jpg"
    (tmp_path / "small-train" / "682" / "a.jpg").unlink()
    (tmp_path / "small-train" / "682" / "b.jpg").unlink()
    with pytest.raises(ValueError, match="small-train/682 should hold images"):
        sources.load("herbarium19", tmp_path)


@pytest.fixture(scope="module")
def synsets(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    names = [f"n{i * 7:08d}" for i in range(1000)]
    return tree(root, {f"train/{n}/{n}_{j}.JPEG": b"" for n in names for j in range(2)})


def test_imagenet1k(synsets):
    records = sources.load("imagenet1k", synsets)
    assert (len(records), records.num_known, records.num_classes) == (2000, 500, 1000)
    np.testing.assert_array_equal(records.truth, np.repeat(np.arange(1000), 2))
    check_draw(records, records.truth < 500)
    assert records.ids[3] == "train/n00000007/n00000007_1.JPEG"


def test_imagenet100(synsets, tmp_path):
    drawn = [int(number) for number in IMAGENET.split()]
    assert imagenet100.drawn_classes() == drawn
    records = sources.load("imagenet100", synsets)
    assert records.class_names == tuple(f"n{i * 7:08d}" for i in drawn)
    assert (len(records), records.num_known) == (200, 50)
    check_draw(records, records.truth < 50)
    only = tree(tmp_path, {f"train/{n}/0.JPEG": b"" for n in records.class_names})
    assert sources.load("imagenet100", only).class_names == records.class_names
    with pytest.raises(ValueError, match="should hold 1000 synset folders, found 100"):
        sources.load("imagenet1k", only)
