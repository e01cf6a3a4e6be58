"""CIFAR-100: photographs of a hundred classes."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._cifar import from_jpegs, from_pickles
from eagc_jax.gcd.sources.named._pickles import read_pickle, texts
from eagc_jax.gcd.sources.named._places import locate, need
from eagc_jax.gcd.sources.named._splits import first_known
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

_NAMES = ("cifar-100-python", "cifar100_jpg_train.zip", "cifar100.zip", "cifar100")
_ADVICE = (
    "Give the folder that holds cifar-100-python (unpacked from "
    "cifar-100-python.tar.gz), or a zip file or folder of its images, each in a folder "
    "that its class names, like train/apple/0001.jpg."
)
_CLASSES = 100


@register("cifar100")
def cifar100(
    root: str | os.PathLike[str] | None = None,
    *,
    num_known: int = 80,
    per_class: int | None = None,
) -> Records:
    """50,000 photographs of a hundred classes, 32 x 32 pixels in colour.

    Papers on generalized category discovery have the first 80 classes known; those on
    novel category discovery 50, and their tables can't be compared. The draw of labels
    is the papers' where the data comes as Python's batches.

    Args:
      root: the folder that holds cifar-100-python, or that folder; or a zip file or
        folder with files like train/apple/0001.jpg.
      num_known: the first so many classes are known.
      per_class: of JPEG files take this many of each class, the first by name.

    Returns:
      Records of uint8 (32, 32, 3) images.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: a batch is damaged, or a class is missing or has too few images.

    References:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    place = locate("CIFAR-100", root, _NAMES, _ADVICE)
    if place.is_dir() and (place / "meta").is_file():
        batch = need("CIFAR-100", place, "train", _ADVICE)
        names = texts(read_pickle(place / "meta").get("fine_label_names", ()))
        if len(names) != _CLASSES:
            raise ValueError(
                f"{place / 'meta'} should hold {_CLASSES} `fine_label_names`, found "
                f"{len(names)}"
            )
        records = from_pickles("cifar100", [batch], "fine_labels", names)
    else:
        records = from_jpegs("cifar100", place, None, _CLASSES, per_class)
    return first_known(records, num_known)
