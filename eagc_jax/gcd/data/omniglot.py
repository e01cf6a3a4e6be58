"""Omniglot, small background set 1: characters of five alphabets, 20 drawings each."""

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
from eagc_jax.gcd.data.locate import locate

_NAMES = ("images_background_small1", "omniglot_background_small1")
_ADVICE = (
    "Give the path of images_background_small1.zip from the repository "
    "github.com/brendenlake/omniglot (folder python), or of the folder it unpacks to."
)
# Alphabet/character01/0108_01.png; what operating systems add starts with a dot.
_DRAWING = re.compile(r"(?:^|/)([^./][^/]*)/(character\d+)/([^./][^/]*\.png)$")
_SIDE = 105  # pixels of a drawing
_DRAWINGS = 20  # of each character


def load_omniglot(
    path: str | os.PathLike | None = None, *, side: int = 28
) -> ImageDataset:
    """136 handwritten characters of five alphabets, 20 drawings each.

    A pixel is the share of its area that is ink: 0 is paper, 1 all ink. It is the exact
    average over the area of the original's 105 x 105 pixels.

    Args:
      path: the zip file, or the folder it unpacks to. By default
        images_background_small1.zip, omniglot_background_small1.zip or the folder of
        either name, in the folder that the environment variable EAGC_DATA names or in
        `data`.
      side: pixels of the result, at most 105.

    Returns:
      (N, side, side, 1) images, sorted by alphabet, character and file; the classes'
      names are like "Greek/character01".

    Raises:
      FileNotFoundError: the data is not there; the message says how to get it.
      ValueError: a file is damaged, or a drawing or a character is missing.

    References:
      Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through
      probabilistic program induction", Science 2015.
    """
    if not 1 <= side <= _SIDE:
        raise ValueError(f"side must be in [1, {_SIDE}], got {side}")
    candidates = [name + end for name in _NAMES for end in (".zip", "")]
    found = locate("Omniglot small 1", path, candidates, _ADVICE)
    drawings = _in_folder(found) if found.is_dir() else _in_zip(found)
    _check_complete(found, drawings)
    names = sorted({(alphabet, character) for alphabet, character, _ in drawings})
    numbers = {name: number for number, name in enumerate(names)}
    average = _area_average(_SIDE, side)
    keys = sorted(drawings)
    images = np.stack(
        [average @ _ink(found, key, drawings[key]) @ average.T for key in keys]
    )
    labels = np.array([numbers[key[:2]] for key in keys], np.int32)
    # Shares of an area: only rounding may leave [0, 1].
    images = np.clip(images, 0, 1).astype(np.float32)[..., None]
    return ImageDataset("omniglot", images, labels, tuple(map("/".join, names)))


# Alphabet, character and file name of a drawing, and a way to its bytes.
_Drawings = dict[tuple[str, str, str], Callable[[], bytes]]


def _in_zip(path: pathlib.Path) -> _Drawings:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} should be a zip file, found {path.stat().st_size} bytes that are "
            f"none ({error}); it may be truncated: fetch it anew"
        ) from error

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: archive.read(name)

    return _collect(path, {name: reader(name) for name in archive.namelist()})


def _in_folder(path: pathlib.Path) -> _Drawings:
    files = {
        file.relative_to(path.parent).as_posix(): file.read_bytes
        for file in path.rglob("*.png")
    }
    return _collect(path, files)


def _collect(path: pathlib.Path, files: dict[str, Callable[[], bytes]]) -> _Drawings:
    drawings: _Drawings = {}
    for name, read in files.items():
        if match := _DRAWING.search(name):
            drawings[match[1], match[2], match[3]] = read
    if not drawings:
        raise ValueError(
            f"{path} should hold drawings named like Greek/character01/0394_01.png, "
            f"found none among {len(files)} files. {_ADVICE}"
        )
    return drawings


def _check_complete(path: pathlib.Path, drawings: _Drawings) -> None:
    """Every alphabet's characters are numbered through and have all drawings."""
    alphabets: dict[str, dict[int, int]] = {}
    for alphabet, character, _ in drawings:
        counts = alphabets.setdefault(alphabet, {})
        number = int(character.removeprefix("character"))
        counts[number] = counts.get(number, 0) + 1
    for alphabet, counts in alphabets.items():
        for number in range(1, max(counts) + 1):
            if counts.get(number, 0) != _DRAWINGS:
                raise ValueError(
                    f"{path} should hold {_DRAWINGS} drawings of "
                    f"{alphabet}/character{number:02d}, found {counts.get(number, 0)}"
                )


def _ink(
    path: pathlib.Path, key: tuple[str, ...], read: Callable[[], bytes]
) -> np.ndarray:
    """(105, 105) float32, 1 where there is ink."""
    name = "/".join(key)
    try:
        with Image.open(io.BytesIO(read())) as image:
            pixels = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{name} in {path} should be a PNG file, found a damaged one ({error}): "
            "fetch it anew"
        ) from error
    if pixels.shape != (_SIDE, _SIDE):
        raise ValueError(
            f"{name} in {path} should have {_SIDE} x {_SIDE} pixels, found "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return (pixels < 128).astype(np.float32)


def _area_average(source: int, target: int) -> np.ndarray:
    """(target, source) matrix: each row averages one target pixel's stretch."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    return (np.maximum(overlap, 0) * target / source).astype(np.float32)
