"""Herbarium19: pressed plants of 683 species."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._class_folders import (
    class_folders,
    from_class_folders,
)
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.named._splits import as_published
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

_NAMES = ("herbarium_19", "herbarium19")
_ADVICE = "Give the folder that holds small-train/<species number>/*.jpg."


@register("herbarium19")
def herbarium19(root: str | os.PathLike[str] | None = None) -> Records:
    """34,000 photographs of herbarium sheets; 341 of 683 species are known.

    Args:
      root: the folder that holds small-train/<species number>/*.jpg.

    Returns:
      Records of uint8 (H, W, 3) images.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: there are not 683 species.

    References:
      Tan et al., "The Herbarium Challenge 2019 Dataset", 2019.
    """
    place = locate("Herbarium19", root, _NAMES, _ADVICE)
    folders = class_folders("Herbarium19", place, "small-train")
    records = from_class_folders("herbarium19", place, "small-train", folders)
    return as_published("herbarium19", records)
