"""ImageNet-100: a hundred of ImageNet's classes, as papers on discovery draw them."""

from __future__ import annotations

import os

import numpy as np

from eagc_jax.gcd.sources.named._class_folders import (
    class_folders,
    from_class_folders,
)
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.named._splits import first_known
from eagc_jax.gcd.sources.named.imagenet1k import ADVICE, CLASSES
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

_DRAWN = 100


def drawn_classes() -> list[int]:
    """The hundred class numbers, among the sorted synsets.

    Examples:
      >>> drawn_classes()[:5], drawn_classes()[-1]
      ([1, 14, 27, 31, 45], 996)
    """
    drawn = np.random.RandomState(0).choice(CLASSES, _DRAWN, replace=False)
    return sorted(drawn.tolist())


@register("imagenet100")
def imagenet100(root: str | os.PathLike[str] | None = None) -> Records:
    """127,000 photographs of a hundred classes, of which the first 50 are known.

    The classes are the seeded draw of Vaze et al. from the sorted synsets, not the
    ImageNet-100 of contrastive learning.

    Args:
      root: the folder that holds train/<synset>/*.JPEG with all 1000 synsets, or with
        just the hundred.

    Returns:
      Records of uint8 (H, W, 3) images.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: there are neither 1000 nor 100 classes.

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    names = ["imagenet", "imagenet100", "imagenet1k"]
    place = locate("ImageNet-100", root, names, ADVICE)
    folders = class_folders("ImageNet-100", place, "train")
    if len(folders) == CLASSES:
        folders = [folders[number] for number in drawn_classes()]
    if len(folders) != _DRAWN:
        raise ValueError(
            f"{place / 'train'} should hold {CLASSES} synset folders, or the {_DRAWN} "
            f"drawn from them, found {len(folders)}"
        )
    return first_known(from_class_folders("imagenet100", place, "train", folders), 50)
