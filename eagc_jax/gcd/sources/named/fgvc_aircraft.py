"""FGVC-Aircraft: aircraft of 100 variants."""

from __future__ import annotations

import os

import numpy as np

from eagc_jax.gcd.sources.images import ImageFiles
from eagc_jax.gcd.sources.named._lists import read_list
from eagc_jax.gcd.sources.named._places import locate, need
from eagc_jax.gcd.sources.named._splits import as_published
from eagc_jax.gcd.sources.posing import fully_labeled
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import Strings

_NAMES = ("fgvc-aircraft-2013b", "fgvc_aircraft", "aircraft")
_ADVICE = (
    "Give the folder that fgvc-aircraft-2013b.tar.gz unpacks to, with data/images and "
    "data/images_variant_trainval.txt."
)


@register("fgvc-aircraft")
def fgvc_aircraft(root: str | os.PathLike[str] | None = None) -> Records:
    """6,667 training photographs of aircraft; 50 of 100 variants are known.

    Args:
      root: the folder that holds data/images and data/images_variant_trainval.txt.

    Returns:
      Records of uint8 (H, W, 3) images, in the order of the list; variants are numbered
      in the order of their names.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: a line of the list is broken, or there are not 100 variants.

    References:
      Maji et al., "Fine-Grained Visual Classification of Aircraft", 2013.
    """
    place = locate("FGVC-Aircraft", root, _NAMES, _ADVICE)
    variants = need("FGVC-Aircraft", place, "data/images_variant_trainval.txt", _ADVICE)
    lines = read_list(variants, " ", 2)
    names, classes = np.unique([variant for _, variant in lines], return_inverse=True)
    ids = Strings.of(f"data/images/{number}.jpg" for number, _ in lines)
    records = fully_labeled(
        "fgvc-aircraft",
        "image",
        ImageFiles(place, ids),
        ids,
        classes,
        tuple(names.tolist()),
    )
    return as_published("fgvc-aircraft", records)
