"""IDX files, plain or gzipped, and the data sets of 28 x 28 gray images in them."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from eagc_jax.gcd.sources.posing import fully_labeled, pose
from eagc_jax.gcd.sources.records import ArrayItems, Records
from eagc_jax.gcd.sources.strings import RowNumbers, shown

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_SIDE = 28  # pixels


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of unsigned bytes.

    Two zero bytes, the type (8: unsigned byte), the number of axes, each axis's length
    as four bytes, most significant first, then the entries in C order.

    Args:
      path: of the file; gzipped or not is told by its first bytes.

    Returns:
      The array, uint8.

    Raises:
      ValueError: the file is not such a file, or shorter or longer than it says.

    References:
      LeCun, Cortes and Burges, "The MNIST database", section "file formats".
    """
    content, place = _unzipped(pathlib.Path(path)), shown(path)
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise ValueError(
            f"{place} is not an IDX file of bytes: it should begin with 00 00 08, found "
            f"{content[:3].hex(' ') or 'nothing'}"
        )
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    expected = header + math.prod(shape)
    if len(shape) != content[3] or len(content) != expected:
        raise ValueError(
            f"{place} should hold {expected} bytes for an array of shape {shape}, found "
            f"{len(content)}; it may be truncated: fetch it anew"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def drawn(
    name: str,
    folder: pathlib.Path,
    class_names: tuple[str, ...],
    images: int,
    seed: int,
    advice: str,
) -> Records:
    """A balanced draw of the training images; the first half of the classes is known.

    The draw has equally many images of each class (up to one) as far as there are
    enough, in the order of the file; a smaller draw is part of a larger one.
    """
    pixels, labels = _checked(folder, len(class_names), advice)
    if not 1 <= images <= len(labels):
        raise ValueError(
            f"images must be in [1, {len(labels)}], the number in {shown(folder)}; got "
            f"{images}"
        )
    chosen = _balanced_draw(labels, images, seed)
    records = fully_labeled(
        name,
        "image",
        ArrayItems(pixels[chosen][..., None].astype(np.float32) / 255),
        RowNumbers(chosen),
        labels[chosen],
        class_names,
    )
    return pose(records, range(len(class_names) // 2))


def _unzipped(path: pathlib.Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{shown(path)} is a damaged or truncated gzip file of {len(content)} bytes "
            f"({error}): fetch it anew"
        ) from error


def _checked(
    folder: pathlib.Path, num_classes: int, advice: str
) -> tuple[np.ndarray, np.ndarray]:
    image_file, label_file = (_find(folder, f, advice) for f in (IMAGES, LABELS))
    pixels, labels = read_idx(image_file), read_idx(label_file)
    if pixels.ndim != 3 or pixels.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{shown(image_file)} should hold images of {_SIDE} x {_SIDE} pixels, found "
            f"an array of shape {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{shown(label_file)} should hold one label for each of the {len(pixels)} "
            f"images in {shown(image_file)}, found an array of shape {labels.shape}"
        )
    if len(labels) and labels.max() >= num_classes:
        raise ValueError(
            f"{shown(label_file)} should hold labels below {num_classes}, found "
            f"{labels.max()}"
        )
    return pixels, labels


def _balanced_draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted image numbers, as many of each class as possible."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), int)  # an image's place among those of its class
    for c in np.unique(shuffled):
        members = np.flatnonzero(shuffled == c)
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def _find(folder: pathlib.Path, stem: str, advice: str) -> pathlib.Path:
    # Some copies have a dot where the original has a dash.
    dotted = stem.replace("-idx", ".idx")
    for name in (stem, f"{stem}.gz", dotted, f"{dotted}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{shown(folder)} should hold {stem} or {stem}.gz, found neither. {advice}"
    )
