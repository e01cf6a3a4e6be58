"""Decoding images of any kind to upright RGB bytes, and the files that hold them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import struct
import zipfile
import zlib
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from eagc_jax.gcd.sources.records import BadItem
from eagc_jax.gcd.sources.strings import Strings

# Where Pillow itself begins to warn; a photo of 9,000 x 9,000 passes.
MAX_PIXELS = 89_478_485

# Formats of which Pillow decodes nothing, or decodes them by running another program.
_REFUSED = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}

# All that Pillow and zipfile raise for damaged content. A warning is among them because
# a program may have turned warnings into errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    Warning,
)


@functools.cache
def extensions() -> frozenset[str]:
    """Endings of file names that say "image", lower case, with their dot.

    Examples:
      >>> ".jpg" in extensions(), ".txt" in extensions()
      (True, False)
    """
    known = Image.registered_extensions()
    readable = set(Image.OPEN) - _REFUSED
    return frozenset(end for end, form in known.items() if form in readable)


def decode(
    source: str | bytes | os.PathLike[str], name: str, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """One image as upright RGB.

    The camera's orientation is applied; of an animation the first frame is taken;
    transparent parts show white; 16 bits become 8; CMYK, palettes and gray become RGB.

    Args:
      source: a path, or the file's content as bytes.
      name: for messages.
      max_pixels: width times height above this is refused before anything is decoded.

    Returns:
      (H, W, 3) uint8.

    Raises:
      BadItem: there is no such file, it is empty, no image, truncated, damaged, or has
        too many pixels.
    """
    try:
        with (
            io.BytesIO(source)
            if isinstance(source, bytes)
            else open(source, "rb") as file
        ):
            image = _identified(file)
            if image is None:
                raise BadItem(name, _why_no_image(file))
            _check_size(image, name, max_pixels)
            return np.asarray(_rgb(_upright(image)))
    except BadItem:
        raise
    except FileNotFoundError as error:
        raise BadItem(name, "there is no such file") from error
    except MemoryError as error:
        raise BadItem(name, "there is not enough memory to decode it") from error
    except _DAMAGE as error:
        raise BadItem(name, f"can't be decoded: {error}") from error


def size(path: str | os.PathLike[str], name: str) -> tuple[int, int]:
    """Width and height of a file's image as the camera was held; no pixel is decoded.

    Raises:
      BadItem: there is no such file, or it is no image.
    """
    try:
        with open(path, "rb") as file:
            image = _identified(file)
            if image is None:
                raise BadItem(name, _why_no_image(file))
            width, height = image.size
            turned = False
            with contextlib.suppress(*_DAMAGE):
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (height, width) if turned else (width, height)
    except BadItem:
        raise
    except FileNotFoundError as error:
        raise BadItem(name, "there is no such file") from error
    except _DAMAGE as error:
        raise BadItem(name, f"can't be decoded: {error}") from error


def _identified(file: IO[bytes]) -> ImageFile.ImageFile | None:
    """The image with its header read, or None if no format claims the file.

    As `Image.open`, without its warning about large images: a warning can be silenced
    for all threads only, and `_check_size` comes before anything is decoded.
    """
    Image.init()
    prefix = file.read(16)
    for form in Image.ID:
        factory, accept = Image.OPEN[form]
        try:
            if form in _REFUSED or (accept and accept(prefix) is not True):
                continue
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # so says a format that finds that the file is none of its own
    return None


def _why_no_image(file: IO[bytes]) -> str:
    size = file.seek(0, io.SEEK_END)
    if not size:
        return "the file is empty (0 bytes)"
    file.seek(0)
    return f"is no image, or damaged: {size} bytes, first {file.read(4).hex(' ')}"


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadItem(
            name,
            f"has {width} x {height} pixels, more than max_pixels = {max_pixels}; "
            "make it smaller, or raise max_pixels if you trust the file",
        )


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held; decodes the image."""
    image.load()
    # Where the note about it is damaged, the pixels may be sound.
    with contextlib.suppress(*_DAMAGE):
        ImageOps.exif_transpose(image, in_place=True)  # copies only if it turns
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Gray values of 16 or 32 bits, or floats in [0, 1], as (H, W) uint8.

    Integers above 255 count as 16 bits of which the upper 8 stay, as Pillow does with
    16 bits of colour.
    """
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values)
        values = np.rint(255 * values) if values.max() <= 1 else values
    elif values.dtype == np.uint16 or values.max() > 255:
        values = values >> 8
    return np.clip(values, 0, 255).astype(np.uint8)


class ImageFiles:
    """Images that are files under one folder; each is opened when asked for.

    Args:
      root: the folder.
      paths: of the files, relative to it or absolute.
      max_pixels: see `decode`.
    """

    def __init__(
        self, root: str | os.PathLike[str], paths: Strings, max_pixels: int = MAX_PIXELS
    ):
        self.root: str = os.fspath(root)
        self.paths = paths
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def path(self, row: int) -> str:
        """Where the file lies."""
        return os.path.join(self.root, self.paths[row])

    def __getitem__(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        path = self.path(row)
        return decode(path, path, max_pixels=self.max_pixels)

    def digest(self, row: int) -> bytes:
        """Of the file's bytes, wherever it lies."""
        path = self.path(row)
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, _hash)
        except (OSError, ValueError) as error:
            raise BadItem(path, f"can't be read: {error}") from error
        return found.digest()


class ZippedImages:
    """Images that are members of one zip file; each is unpacked when asked for.

    Args:
      archive: path of the zip file.
      members: their names in it.
      max_pixels: see `decode`.
    """

    def __init__(
        self,
        archive: str | os.PathLike[str],
        members: Strings,
        max_pixels: int = MAX_PIXELS,
    ):
        self.archive: str = os.fspath(archive)
        self.members = members
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        """N."""
        return len(self.members)

    def __getitem__(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        content, name = self._content(row)
        return decode(content, name, max_pixels=self.max_pixels)

    def digest(self, row: int) -> bytes:
        """Of the member's bytes: the same as of a file with that content."""
        found = _hash()
        found.update(self._content(row)[0])
        return found.digest()

    def _content(self, row: int) -> tuple[bytes, str]:
        member = self.members[row]
        name = f"{self.archive}/{member}"
        try:
            size = self._zip.getinfo(member).file_size
            if size > 8 * self.max_pixels + 2**20:  # 8 bytes: 16-bit RGBA, as it is
                raise BadItem(name, f"has {size} bytes, more than max_pixels allows")
            return self._zip.read(member), name
        except BadItem:
            raise
        except (*_DAMAGE, RuntimeError, NotImplementedError) as error:
            raise BadItem(name, f"can't be unpacked: {error}") from error

    @functools.cached_property
    def _zip(self) -> zipfile.ZipFile:
        """One handle for all threads: it locks while it reads, not while it unpacks."""
        return zipfile.ZipFile(self.archive)


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
