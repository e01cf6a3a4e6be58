"""CUB-200-2011: birds of 200 species."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from eagc_jax.gcd.sources.images import ImageFiles
from eagc_jax.gcd.sources.named._lists import read_list
from eagc_jax.gcd.sources.named._places import locate, need
from eagc_jax.gcd.sources.named._splits import as_published
from eagc_jax.gcd.sources.posing import fully_labeled
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import Strings

_ADVICE = (
    "Give the folder that CUB_200_2011.tgz unpacks to, with images.txt, "
    "image_class_labels.txt, train_test_split.txt and images."
)


@register("cub")
def cub(root: str | os.PathLike[str] | None = None) -> Records:
    """5,994 training photographs of birds; 100 of 200 species are known.

    Args:
      root: the folder CUB_200_2011, or the one that holds it.

    Returns:
      Records of uint8 (H, W, 3) images, in the order of images.txt.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: the lists disagree, or there are not 200 species.

    References:
      Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    place = locate("CUB-200-2011", root, ["CUB_200_2011", "cub/CUB_200_2011"], _ADVICE)
    paths = _by_number(place, "images.txt")
    labels = _by_number(place, "image_class_labels.txt")
    training = _by_number(place, "train_test_split.txt")
    for name, found in (("class labels", labels), ("train-test split", training)):
        if missing := [number for number in paths if number not in found]:
            raise ValueError(
                f"{place} should have a line for each image in its {name}, found none "
                f"for image {missing[0]}"
            )
    names = sorted({path.split("/")[0] for path in paths.values()})
    chosen = [number for number in paths if training[number] == "1"]
    ids = Strings.of(f"images/{paths[number]}" for number in chosen)
    classes = np.array([int(labels[number]) - 1 for number in chosen])
    items = ImageFiles(place, ids)
    return as_published(
        "cub", fully_labeled("cub", "image", items, ids, classes, names)
    )


def _by_number(place: pathlib.Path, name: str) -> dict[str, str]:
    """The lines "number value" of a list, in its order."""
    lines = read_list(need("CUB-200-2011", place, name, _ADVICE), " ", 2)
    return {number: value for number, value in lines}
