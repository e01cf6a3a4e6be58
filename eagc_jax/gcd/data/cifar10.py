"""CIFAR-10 as a zip file, or a folder, of one JPEG file for each image."""

import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from eagc_jax.gcd.data.datasets import ImageDataset

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_SIDE = 32  # pixels
# train/bird/0338.jpg, under any name of the outermost folder, or without it.
_IMAGE = re.compile(rf"(?:^|/)({'|'.join(CLASSES)})/([^./][^/]*\.jpe?g)$")

_Files = dict[str, list[tuple[str, Callable[[], bytes]]]]  # of each class, by name


def read_cifar10(
    path: str | os.PathLike, *, per_class: int | None = None
) -> ImageDataset:
    """Photographs of ten classes, 32 x 32 pixels in colour.

    Args:
      path: a zip file that holds files like ``train/bird/0338.jpg``, or the folder it
        unpacks to. It is only read.
      per_class: take this many of each class, the first by name; None for all.

    Returns:
      (N, 32, 32, 3) float32 images, sorted by class and file name.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no zip file; a class is missing, or has too few images; an image
        is damaged, or of another size.

    Examples:
      >>> read_cifar10("photos.zip")
      Traceback (most recent call last):
      ...
      FileNotFoundError: photos.zip was not found; ...

    References:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    place = pathlib.Path(path)
    if not place.exists():
        raise FileNotFoundError(
            f"{place} was not found; it should be a zip file of CIFAR-10's images, each "
            "in a folder that its class names, like train/bird/0338.jpg"
        )
    if place.is_dir():
        images, labels = _read(place, _in_folder(place), per_class)
    else:
        try:
            with zipfile.ZipFile(place) as archive:
                images, labels = _read(place, _in_zip(archive), per_class)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{place} should be a zip file ({error})") from error
    return ImageDataset("cifar10", images, labels, CLASSES)


def _in_zip(archive: zipfile.ZipFile) -> _Files:
    def reader(name: str) -> Callable[[], bytes]:
        return lambda: archive.read(name)

    return _by_class({name: reader(name) for name in archive.namelist()})


def _in_folder(folder: pathlib.Path) -> _Files:
    return _by_class(
        {
            file.relative_to(folder.parent).as_posix(): file.read_bytes
            for file in folder.rglob("*.jp*g")
        }
    )


def _by_class(files: dict[str, Callable[[], bytes]]) -> _Files:
    found: _Files = {name: [] for name in CLASSES}
    for name in sorted(files):
        if match := _IMAGE.search(name):
            found[match[1]].append((name, files[name]))
    return found


def _read(
    place: pathlib.Path, files: _Files, per_class: int | None
) -> tuple[np.ndarray, np.ndarray]:
    least = 1 if per_class is None else per_class
    for name, members in files.items():
        if len(members) < least:
            raise ValueError(
                f"{place} should hold at least {least} images named like "
                f"{name}/0001.jpg, found {len(members)}"
            )
    chosen = [members[:per_class] for members in files.values()]
    pixels = np.stack(
        [_decode(place, *member) for members in chosen for member in members]
    )
    labels = np.repeat(np.arange(len(CLASSES)), [len(members) for members in chosen])
    return pixels.astype(np.float32) / 255, labels.astype(np.int32)


def _decode(place: pathlib.Path, name: str, read: Callable[[], bytes]) -> np.ndarray:
    """(32, 32, 3) bytes."""
    try:
        with Image.open(io.BytesIO(read())) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} in {place} is damaged: {error}") from error
    if pixels.shape != (_SIDE, _SIDE, 3):
        raise ValueError(
            f"{name} in {place} should have {_SIDE} x {_SIDE} pixels, found "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels
