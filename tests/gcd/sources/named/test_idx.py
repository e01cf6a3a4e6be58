"""MNIST and Fashion-MNIST from small IDX files, whole and damaged."""

import gzip
import struct

import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named import _idx

PER_CLASS = np.array([9, 4, 7, 7, 7, 7, 7, 7, 7, 8])


def load(*arguments, **options):
    return sources.load("fashion-mnist", *arguments, **options)


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


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
    np.testing.assert_array_equal(_idx.read_idx(tmp_path / "file"), array)


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
        _idx.read_idx(tmp_path / "broken-file")
    assert "broken-file" in str(caught.value)


def test_fashion_mnist_draws_the_same_balanced_images(clothes):
    dataset = load(clothes, images=50)
    assert dataset.items.array.shape == (50, 28, 28, 1)
    assert dataset.items.array.dtype == np.float32
    np.testing.assert_array_equal(
        np.rint(dataset.items.array[:, 0, 1, 0] * 255), dataset.truth
    )
    numbers = np.rint(dataset.items.array[:, 0, 0, 0] * 255)
    assert np.all(np.diff(numbers) > 0)  # the file's order, nothing twice
    # Class 1 has only 4 images; the other nine share 46, which is 5 and one more.
    counts = np.bincount(dataset.truth)
    assert counts[1] == 4
    assert sorted(counts)[1:] == [5] * 8 + [6]
    again = load(clothes, images=50)
    np.testing.assert_array_equal(again.items.array, dataset.items.array)
    fewer = load(clothes, images=20)
    assert set(fewer.items.array[:, 0, 0, 0]) < set(dataset.items.array[:, 0, 0, 0])
    other = load(clothes, images=50, seed=1)
    assert np.any(other.items.array != dataset.items.array)


def test_all_images_are_the_file_itself(clothes):
    dataset = sources.load("mnist", clothes, images=70)
    np.testing.assert_array_equal(
        np.rint(dataset.items.array[..., 0] * 255),
        _idx.read_idx(clothes / "train-images-idx3-ubyte.gz"),
    )
    np.testing.assert_array_equal(np.bincount(dataset.truth), PER_CLASS)


def test_wrong_idx_files_of_a_data_set_are_named(clothes):
    images = clothes / "train-images-idx3-ubyte.gz"
    labels = clothes / "train-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=r"images must be in \[1, 70\]"):
        load(clothes, images=71)
    with pytest.raises(ValueError, match=r"images must be in \[1, 70\]"):
        load(clothes, images=0)
    labels.write_bytes(idx_bytes(np.full(70, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"idx1-ubyte should hold labels below 10"):
        load(clothes)
    labels.write_bytes(idx_bytes(np.zeros(69, np.uint8)))
    with pytest.raises(ValueError, match=r"one label for each of the 70 images"):
        load(clothes)
    images.write_bytes(idx_bytes(np.zeros((70, 27, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"28 x 28 pixels, found .*\(70, 27, 28\)"):
        load(clothes)
    images.unlink()
    with pytest.raises(
        FileNotFoundError, match="apt-get install dataset-fashion-mnist"
    ):
        load(clothes)
