"""What CIFAR-10 and CIFAR-100 share: pickled batches, and archives of JPEG files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.sources.named._files import Files
from eagc_jax.gcd.sources.named._pickles import read_pickle
from eagc_jax.gcd.sources.posing import fully_labeled
from eagc_jax.gcd.sources.records import ArrayItems, Records
from eagc_jax.gcd.sources.strings import RowNumbers, shown

_SIDE = 32  # pixels


def from_pickles(
    name: str, batches: Sequence[pathlib.Path], key: str, class_names: tuple[str, ...]
) -> Records:
    """Pickled batches, in order; ids are numbers over all of them.

    Args:
      name: of the data set.
      batches: the files.
      key: of the labels.
      class_names: in the order of the labels.
    """
    read = [_batch(path, key, len(class_names)) for path in batches]
    pixels = np.concatenate([pixels for pixels, _ in read])
    labels = np.concatenate([labels for _, labels in read])
    ids = RowNumbers(len(labels))
    return fully_labeled(name, "image", ArrayItems(pixels), ids, labels, class_names)


def from_jpegs(
    name: str,
    place: pathlib.Path,
    class_names: Sequence[str] | None,
    num_classes: int,
    per_class: int | None,
) -> Records:
    """A folder or zip file with files like train/bird/0338.jpg, sorted by class.

    Where there are folders `train` and others, only `train` is taken.

    Args:
      name: of the data set.
      place: of the folder or zip file.
      class_names: None takes the folders' names.
      num_classes: that there should be.
      per_class: take this many of each, the first by name; None for all.
    """
    files = Files(place)
    found = _by_class(files.names, class_names)
    least = 1 if per_class is None else per_class
    for class_name, members in found.items():
        if len(members) < least:
            raise ValueError(
                f"{shown(place)} should hold at least {least} images named like "
                f"{class_name}/0001.jpg, found {len(members)}"
            )
    if len(found) != num_classes:
        raise ValueError(
            f"{shown(place)} should hold {num_classes} folders of images, one for each "
            f"class, named like train/bird/0001.jpg; found {len(found)}"
        )
    chosen = [members[:per_class] for members in found.values()]
    names = [member for members in chosen for member in members]
    labels = np.repeat(np.arange(num_classes), [len(members) for members in chosen])
    items = files.images(names)
    return fully_labeled(name, "image", items, tuple(names), labels, tuple(found))


def _by_class(
    names: list[str], class_names: Sequence[str] | None
) -> dict[str, list[str]]:
    """Files of each class, the file's folder being its class's name."""
    paths = [pathlib.PurePosixPath(name) for name in names]
    paths = [p for p in paths if _is_jpeg(p) and len(p.parts) > 1]
    training = [p for p in paths if "train" in p.parts[:-2]]
    found: dict[str, list[str]] = {name: [] for name in class_names or ()}
    for path in training or paths:
        if class_names is None or path.parts[-2] in found:
            found.setdefault(path.parts[-2], []).append(str(path))
    return {name: sorted(found[name]) for name in class_names or sorted(found)}


def _is_jpeg(path: pathlib.PurePosixPath) -> bool:
    return path.suffix in (".jpg", ".jpeg") and not path.name.startswith(".")


def _batch(
    path: pathlib.Path, key: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) uint8 and (N,) labels."""
    found = read_pickle(path)
    pixels, labels = found.get("data"), np.asarray(found.get(key, ()))
    width = 3 * _SIDE * _SIDE
    if not isinstance(pixels, np.ndarray) or pixels.shape != (len(labels), width):
        raise ValueError(
            f"{shown(path)} should hold `data` of shape (N, {width}) and N labels as "
            f"`{key}`, found {getattr(pixels, 'shape', None)} and {len(labels)}"
        )
    if pixels.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{shown(path)} should hold bytes and integers, found {pixels.dtype} and "
            f"{labels.dtype}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"{shown(path)} should hold labels in [0, {num_classes}), found "
            f"{labels.min()} to {labels.max()}"
        )
    planes = pixels.reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
