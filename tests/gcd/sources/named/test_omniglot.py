"""Omniglot from small archives and folders, whole and damaged."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.named import omniglot


def load(path, **options):
    return sources.load("omniglot", path, **options)


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
    zipped = load(write_zip(tmp_path / "o.zip", characters | litter))
    folder = write_folder(tmp_path, characters | litter)
    for path in (folder, folder / "images_background_small1"):
        unpacked = load(path)
        np.testing.assert_array_equal(unpacked.items.array, zipped.items.array)
        np.testing.assert_array_equal(unpacked.truth, zipped.truth)
    assert zipped.class_names == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
    )
    np.testing.assert_array_equal(zipped.truth, np.repeat([0, 1, 2], 20))
    assert zipped.items.array.shape == (60, 28, 28, 1)
    assert zipped.items.array.dtype == np.float32


def test_a_pixel_is_the_share_of_its_area_that_is_ink(tmp_path, characters):
    path = write_zip(tmp_path / "o.zip", characters)
    # A box of 15 original pixels covers exactly 4 of 105 / 28 = 3.75 each.
    expected = np.zeros((28, 28))
    expected[:4, :4] = 1
    box = load(path).items.array[40, ..., 0]
    np.testing.assert_allclose(box, expected, atol=1e-6)
    # At the original size nothing is averaged; elsewhere the share of ink is kept.
    whole = load(path, side=105).items.array
    assert set(np.unique(whole)) == {0, 1}
    for side in (1, 28, 64):
        shares = load(path, side=side).items.array.mean((1, 2, 3))
        np.testing.assert_allclose(shares, whole.mean((1, 2, 3)), rtol=1e-5)
    # Against 4-fold oversampling: 420 = 28 * 15, so its boxes are exact.
    fine = np.kron(whole[3, ..., 0], np.ones((4, 4)))
    boxes = fine.reshape(28, 15, 28, 15).mean((1, 3))
    np.testing.assert_allclose(load(path).items.array[3, ..., 0], boxes, atol=1e-6)


def test_a_damaged_omniglot_is_named(tmp_path, characters):
    path = write_zip(tmp_path / "o.zip", characters)
    whole = path.read_bytes()
    name = "images_background_small1/Greek/character02/0001_07.png"

    def fails(message, changed=None):
        if changed is not None:
            write_zip(path, characters | changed)
        with pytest.raises(ValueError, match=message) as caught:
            load(path)
        assert "o.zip" in str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    fails("should be a zip file, found .* may be truncated")
    start = whole.index(characters[name])
    path.write_bytes(whole[: start + 60] + bytes(9) + whole[start + 69 :])
    fails("Greek/character02/0001_07.png: .*damaged")
    fails("0001_07.png: .*damaged", {name: characters[name][:50]})
    fails("0001_07.png: .*damaged", {name: b""})
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
        load(path, side=106)


def test_area_average_rows_are_shares():
    for source, target in ((105, 28), (105, 105), (7, 3)):
        matrix = omniglot._area_average(source, target)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(matrix.sum(0), target / source, rtol=1e-6)
