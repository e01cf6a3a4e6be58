"""Whatever the file, the image is upright RGB bytes, or the error says why not."""

import struct
import threading
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd.sources import images
from eagc_jax.gcd.sources.images import decode
from eagc_jax.gcd.sources.records import BadItem
from eagc_jax.gcd.sources.strings import Strings
from tests.gcd.sources.pictures import encoded, noise, png


def test_rgb_comes_back_as_it_is():
    picture = noise()
    found = decode(encoded(picture), "n.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(orientation):
    upright = np.asarray(noise(1))
    # How a sensor records an upright picture, by the EXIF standard's table: row 0 and
    # column 0 of the file are these sides of the picture.
    stored = {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.transpose(1, 0, 2),  # left, top
        6: upright[:, ::1].transpose(1, 0, 2)[::-1],  # right, top
        7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: upright.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content, "x"), upright)


def test_a_damaged_note_about_orientation_leaves_the_pixels():
    picture = noise()
    content = encoded(picture, "PNG", exif=b"Exif\x00\x00II*\x00nonsense")
    np.testing.assert_array_equal(decode(content, "x"), np.asarray(picture))


def test_cmyk_gray_palette_and_one_bit():
    red = Image.new("RGB", (5, 3), (255, 0, 0))
    cmyk = decode(encoded(red.convert("CMYK"), "TIFF"), "x")
    np.testing.assert_array_equal(cmyk, np.asarray(red))
    gray = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(3, 5))
    for mode in ("L", "P"):
        found = decode(encoded(gray.convert(mode)), "x")
        np.testing.assert_array_equal(found[..., 1], np.asarray(gray))
    bits = Image.fromarray(np.eye(4, dtype=bool))
    np.testing.assert_array_equal(decode(encoded(bits), "x")[..., 0], 255 * np.eye(4))


def test_sixteen_bits_keep_the_upper_eight():
    values = np.array([[0, 255, 256], [0x1234, 0xFF00, 0xFFFF]], np.uint16)
    for form in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(values), form), "x")
        np.testing.assert_array_equal(found[..., 2], values >> 8)
    floats = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    found = decode(encoded(floats, "TIFF"), "x")
    assert found[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_shows_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 51, 255]  # black, at 0, 1/5 and all
    found = decode(encoded(Image.fromarray(pixels)), "x")
    assert found[0, :, 0].tolist() == [255, 204, 0]
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    found = decode(encoded(palette, "PNG", transparency=b"\x00\xff"), "x")
    assert found.min() == 255


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (4, 4), (c, 0, 0)) for c in (255, 0)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, "x")[0, 0].tolist() == [255, 0, 0]


def huge_png(width, height):
    """A header that promises a size, and nothing behind it."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    data = struct.pack(">I", 1000) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + data


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(
        BadItem, match=r"30000 x 30000 pixels, .* max_pixels = 89478485"
    ):
        decode(huge_png(30_000, 30_000), "x")
    with pytest.raises(BadItem, match="max_pixels = 23"):
        decode(png(), "x", max_pixels=23)
    assert decode(png(), "x", max_pixels=24).shape == (4, 6, 3)


def test_no_warning_about_bombs_leaks(monkeypatch):
    # Pillow would warn from half of this size on, and raise at twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(png(), "x").shape == (4, 6, 3)
    assert not caught


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (
            b"not an image at all",
            "is no image, or damaged: 19 bytes, first 6e 6f 74 20",
        ),
        (png()[:50], "can't be decoded"),
        (encoded(noise(size=(90, 90)), "JPEG")[:2000], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
        (huge_png(6, 4), "can't be decoded"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "one.png"
    path.write_bytes(content)
    items = images.ImageFiles(tmp_path, Strings.of(["one.png"]))
    with pytest.raises(BadItem, match=reason) as caught:
        items[0]
    assert caught.value.item == str(path)
    assert str(path) in str(caught.value)


def test_every_place_where_a_file_may_end_is_an_error_or_an_image():
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        content = encoded(noise(size=(20, 20)), form)
        for end in range(0, len(content), max(1, len(content) // 40)):
            try:
                assert decode(content[:end], "x").shape == (20, 20, 3)
            except BadItem as error:
                assert error.reason  # noqa: PT017


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    items = images.ImageFiles(tmp_path, Strings.of(["gone.png", "folder.png"]))
    with pytest.raises(BadItem, match=r"gone\.png: there is no such file"):
        items[0]
    with pytest.raises(BadItem, match=r"folder\.png: can't be decoded"):
        items[1]
    with pytest.raises(BadItem, match=r"gone\.png: can't be read"):
        items.digest(0)


def test_names_with_line_breaks_are_escaped_in_messages(tmp_path):
    name = "a\nb\x1b<b>.png"
    (tmp_path / name).write_bytes(b"")
    items = images.ImageFiles(tmp_path, Strings.of([name]))
    with pytest.raises(BadItem) as caught:
        items[0]
    assert str(caught.value).isprintable()
    assert r"a\nb\x1b<b>.png" in str(caught.value)
    assert caught.value.item.endswith(name)


def test_files_and_members_of_a_zip_are_the_same_items(tmp_path):
    names = [f"{i}.png" for i in range(4)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            (tmp_path / name).write_bytes(encoded(noise(number)))
            archive.write(tmp_path / name, name)
    files = images.ImageFiles(tmp_path, Strings.of(names))
    zipped = images.ZippedImages(tmp_path / "a.zip", Strings.of(names))
    assert len(files) == len(zipped) == 4
    for row in range(4):
        np.testing.assert_array_equal(files[row], zipped[row])
        assert files.digest(row) == zipped.digest(row)
        assert len(files.digest(row)) == 16
    assert files.digest(0) != files.digest(1)
    found = {}

    def fetch(row):
        found[row] = [zipped[row % 4] for _ in range(20)]

    threads = [threading.Thread(target=fetch, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, many in found.items():
        for one in many:
            np.testing.assert_array_equal(one, files[row % 4])


def test_a_missing_or_damaged_member_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.png", png())
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60] ^= 255
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(BadItem, match=r"a\.zip/two\.png: can't be unpacked"):
        images.ZippedImages(tmp_path / "a.zip", Strings.of(["two.png"]))[0]
    with pytest.raises(BadItem, match=r"b\.zip/one\.png: can't be unpacked"):
        images.ZippedImages(tmp_path / "b.zip", Strings.of(["one.png"]))[0]


def test_a_member_that_would_unpack_to_too_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.png", bytes(2**20 + 81))
    items = images.ZippedImages(tmp_path / "a.zip", Strings.of(["one.png"]), 10)
    with pytest.raises(BadItem, match="has 1048657 bytes, more than max_pixels allows"):
        items[0]


def test_extensions_are_of_formats_that_are_decoded_here():
    known = images.extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".gif", ".bmp"} <= known
    assert not {".eps", ".mpg", ".h5", ".pdf", ".txt"} & known
