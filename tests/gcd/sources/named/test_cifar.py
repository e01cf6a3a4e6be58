"""CIFAR as pickled batches and as JPEG files; a pickle may not run anything."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named import cifar10
from eagc_jax.gcd.sources.named._pickles import read_pickle
from tests.gcd.sources.pictures import jpeg

NAMES = tuple(f"class-{i:02d}" for i in range(100))


def batch(path, key, number, num_classes, seed=0, protocol=2):
    """Written as Python 2 did: keys are bytes, arrays are rebuilt by name."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (number, 3072)).astype(np.uint8)
    labels = generator.permutation(np.arange(number) % num_classes).tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        pickle.dumps({b"data": pixels, key.encode(): labels}, protocol=protocol)
    )
    return pixels, labels


@pytest.fixture
def batches(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    return [batch(folder / f"data_batch_{i}", "labels", 20, 10, i) for i in range(1, 6)]


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_from_its_batches(batches, tmp_path, inside):
    records = sources.load("cifar10", tmp_path / inside)
    assert (len(records), records.num_known, records.class_names) == (
        100,
        5,
        cifar10.CLASSES,
    )
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(records.truth, labels)
    pixels = np.concatenate([pixels for pixels, _ in batches])
    for row in (0, 57, 99):  # a row holds the red, then the green, then the blue plane
        image = records.items[row]
        assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
        np.testing.assert_array_equal(image.transpose(2, 0, 1).ravel(), pixels[row])
    # The papers' draw: half of the known classes' rows, with NumPy's seed 0.
    known = np.flatnonzero(labels < 5)
    np.random.seed(0)  # noqa: NPY002
    drawn = np.random.choice(len(known), len(known) // 2, replace=False)  # noqa: NPY002
    np.testing.assert_array_equal(
        np.flatnonzero(records.labeled_mask), np.sort(known[drawn])
    )


@pytest.mark.parametrize("num_known", [80, 50])
def test_cifar100_from_its_batch(tmp_path, num_known):
    folder = tmp_path / "cifar-100-python"
    _, labels = batch(folder / "train", "fine_labels", 300, 100)
    names = [name.encode() for name in NAMES]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, 2))
    records = sources.load("cifar100", tmp_path, num_known=num_known)
    np.testing.assert_array_equal(records.truth, labels)
    assert records.class_names == NAMES
    assert records.num_known == num_known
    assert records.labeled_mask.sum() == 3 * num_known // 2
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names[:9]}, 2))
    with pytest.raises(ValueError, match="100 `fine_label_names`, found 9"):
        sources.load("cifar100", tmp_path)


def test_wrong_batches_are_named(batches, tmp_path):
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    pixels = np.zeros((2, 3072), np.uint8)
    for content, message in (
        ({}, r"`data` of shape \(N, 3072\) and N labels as `labels`, found None and 0"),
        ({"data": pixels[:, :9], "labels": [0, 1]}, r"found \(2, 9\) and 2"),
        ({"data": pixels, "labels": [0, 10]}, r"labels in \[0, 10\), found 0 to 10"),
        ({"data": pixels * 1.0, "labels": [0, 1]}, "bytes and integers, found float64"),
        ([1], "should hold a dict"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message) as caught:
            sources.load("cifar10", tmp_path)
        assert "data_batch_3" in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="should hold data_batch_3"):
        sources.load("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_arrays_is_read_whatever_its_protocol(tmp_path, protocol):
    content = {
        b"data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "labels": [1, 2, 3],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bytes": b"abc",
    }
    (tmp_path / "p").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "p")
    assert set(found) == {"data", "labels", "fortran", "bytes"}
    np.testing.assert_array_equal(found["data"], content[b"data"])
    np.testing.assert_array_equal(found["fortran"], content["fortran"])
    assert (found["labels"], found["bytes"]) == ([1, 2, 3], b"abc")


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "evil",
    [
        Runs(os.system, "touch ran"),
        Runs(eval, "open('ran', 'w')"),
        Runs(getattr, "text", "upper"),
        Runs(np.load, "x.npy"),
        Runs(np.ndarray.__reduce__, np.zeros(1)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_something_is_refused(
    tmp_path, monkeypatch, evil, protocol
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").write_bytes(pickle.dumps({"data": evil}, protocol))
    with pytest.raises(ValueError, match="which is not admitted"):
        read_pickle(tmp_path / "p")
    assert not (tmp_path / "ran").exists()


def test_damaged_pickles_are_named(tmp_path):
    whole = pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]})
    for end in range(len(whole)):
        (tmp_path / "p").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="p can't be read as a pickle of arrays"):
            read_pickle(tmp_path / "p")


@pytest.fixture
def photos(tmp_path):
    """Two of each class, whose colour says which one of which class it is."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/", "")
        for number, name in enumerate(cifar10.CLASSES):
            for item in (1, 0):  # not in order
                archive.writestr(
                    f"train/{name}/000{item}.jpg", jpeg((20 * number, 200 * item, 128))
                )
            archive.writestr(f"test/{name}/0000.jpg", b"of another part")
        archive.writestr("train/bird/._0001.jpg", b"an operating system's")
        archive.writestr("train/notes/0001.jpg", b"of no class")
    return path


def stacked(records):
    return np.stack([records.items[row] for row in range(len(records))])


def test_cifar10_from_jpegs_in_a_zip_file_and_in_a_folder(photos, tmp_path):
    records = sources.load("cifar10", photos)
    assert records.class_names == cifar10.CLASSES
    np.testing.assert_array_equal(records.truth, np.repeat(np.arange(10), 2))
    assert records.ids[4] == "train/bird/0000.jpg"
    images = stacked(records)
    assert (images.shape, images.dtype) == ((20, 32, 32, 3), np.uint8)
    colours = np.array([(20 * (i // 2), 200 * (i % 2), 128) for i in range(20)])
    # JPEG rounds colours to about one part in 64.
    np.testing.assert_allclose(images[:, 5, 5].astype(int), colours, atol=5)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(photos) as archive:
        archive.extractall(folder)
    for root in (folder, folder / "train"):
        np.testing.assert_array_equal(stacked(sources.load("cifar10", root)), images)
    few = sources.load("cifar10", photos, per_class=1)
    np.testing.assert_array_equal(stacked(few), images[::2])


def test_wrong_archives_are_explained(photos, tmp_path):
    with pytest.raises(ValueError, match="at least 3 images named like airplane/"):
        sources.load("cifar10", photos, per_class=3)
    with pytest.raises(
        ValueError, match=r"should hold 100 folders of images, .*found 11"
    ):
        sources.load("cifar100", photos)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match="should be a zip file"):
        sources.load("cifar10", tmp_path / "text.zip")
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(photos) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            replaced = name == "train/bird/0000.jpg"
            new.writestr(name, b"no picture" if replaced else old.read(name))
    records = sources.load("cifar10", changed)
    with pytest.raises(sources.BadItem, match=r"bird/0000\.jpg: is no image"):
        records.items[4]


def test_cifar100_from_jpegs(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*NAMES[:99], "train"):  # a class of that name is there, too
            archive.writestr(f"train/{name}/0.jpg", b"")
    records = sources.load("cifar100", path)
    assert records.class_names == (*NAMES[:99], "train")
    assert (len(records), records.num_known) == (100, 80)
