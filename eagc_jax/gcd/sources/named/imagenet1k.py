"""ImageNet-1K: photographs of a thousand classes."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._class_folders import (
    class_folders,
    from_class_folders,
)
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.named._splits import first_known
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

CLASSES = 1000
ADVICE = "Give the folder that holds train/<synset>/*.JPEG (ILSVRC 2012)."


@register("imagenet1k")
def imagenet1k(root: str | os.PathLike[str] | None = None) -> Records:
    """1.28 million photographs; the first 500 of 1000 synsets, sorted, are known.

    Args:
      root: the folder that holds train/<synset>/*.JPEG.

    Returns:
      Records of uint8 (H, W, 3) images.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: there are not 1000 classes.

    References:
      Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015.
    """
    place = locate("ImageNet-1K", root, ["imagenet", "imagenet1k"], ADVICE)
    folders = class_folders("ImageNet-1K", place, "train")
    if len(folders) != CLASSES:
        raise ValueError(
            f"{place / 'train'} should hold {CLASSES} synset folders, found "
            f"{len(folders)}"
        )
    return first_known(from_class_folders("imagenet1k", place, "train", folders), 500)
