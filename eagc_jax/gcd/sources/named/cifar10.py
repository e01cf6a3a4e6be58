"""CIFAR-10: photographs of ten classes."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._cifar import from_jpegs, from_pickles
from eagc_jax.gcd.sources.named._places import locate, need
from eagc_jax.gcd.sources.named._splits import first_known
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

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
_NAMES = ("cifar-10-batches-py", "cifar10_jpg_train.zip", "cifar10.zip", "cifar10")
_ADVICE = (
    "Give the folder that holds cifar-10-batches-py (unpacked from "
    "cifar-10-python.tar.gz), or a zip file or folder of its images, each in a folder "
    "that its class names, like train/bird/0338.jpg."
)


@register("cifar10")
def cifar10(
    root: str | os.PathLike[str] | None = None, *, per_class: int | None = None
) -> Records:
    """50,000 photographs of ten classes, 32 x 32 pixels in colour; 0 to 4 are known.

    The labeled images are those of the papers if they come as Python's batches, whose
    order the draw needs. JPEG files are sorted by class and name, and the draw is as
    good as theirs, but another one.

    Args:
      root: the folder that holds cifar-10-batches-py, or that folder; or a zip file or
        folder with files like train/bird/0338.jpg.
      per_class: of JPEG files take this many of each class, the first by name.

    Returns:
      Records of uint8 (32, 32, 3) images.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: a batch is damaged, or a class is missing or has too few images.

    References:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    place = locate("CIFAR-10", root, _NAMES, _ADVICE)
    if place.is_dir() and any(place.glob("data_batch_*")):
        batches = [
            need("CIFAR-10", place, f"data_batch_{number}", _ADVICE)
            for number in range(1, 6)
        ]
        records = from_pickles("cifar10", batches, "labels", CLASSES)
    else:
        records = from_jpegs("cifar10", place, CLASSES, len(CLASSES), per_class)
    return first_known(records, 5)
