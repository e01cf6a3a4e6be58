"""Omniglot, small background set 1: characters of five alphabets, 20 drawings each."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np

from eagc_jax.gcd.sources.named._files import Files
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.posing import fully_labeled, half_of_each_group, pose
from eagc_jax.gcd.sources.records import ArrayItems, BadItem, Items, Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import shown

_NAMES = ("images_background_small1", "omniglot_background_small1")
_ADVICE = (
    "Give the path of images_background_small1.zip from the repository "
    "github.com/brendenlake/omniglot (folder python), or of the folder it unpacks to."
)
# Alphabet/character01/0108_01.png; what operating systems add starts with a dot.
_DRAWING = re.compile(r"(?:^|/)([^./][^/]*)/(character\d+)/([^./][^/]*\.png)$")
_SIDE = 105  # pixels of a drawing
_DRAWINGS = 20  # of each character

_Drawings = dict[tuple[str, str, str], str]  # alphabet, character, file: full name


@register("omniglot")
def omniglot(
    root: str | os.PathLike[str] | None = None, *, side: int = 28, seed: int = 0
) -> Records:
    """136 handwritten characters of five alphabets, 20 drawings each.

    A pixel is the share of its area that is ink: 0 is paper, 1 all ink. It is the exact
    average over the area of the original's 105 x 105 pixels. A seeded half of each
    alphabet's characters is known.

    Args:
      root: the zip file, or the folder it unpacks to, or a folder that holds either as
        images_background_small1 or omniglot_background_small1.
      side: pixels of the result, at most 105.
      seed: of the draw of labels.

    Returns:
      Records of float32 (side, side, 1) images, sorted by alphabet, character and file;
      the classes' names are like "Greek/character01".

    Raises:
      FileNotFoundError: the data is not there; the message says how to get it.
      ValueError: a file is damaged, or a drawing or a character is missing.

    References:
      Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through
      probabilistic program induction", Science 2015.
    """
    if not 1 <= side <= _SIDE:
        raise ValueError(f"side must be in [1, {_SIDE}], got {side}")
    candidates = [name + end for name in _NAMES for end in (".zip", "")]
    place = locate("Omniglot small 1", root, candidates, _ADVICE)
    files = Files(place)
    drawings = _drawings(place, files)
    keys = sorted(drawings)
    names = sorted({"/".join(key[:2]) for key in keys})
    numbers = {name: number for number, name in enumerate(names)}
    items = files.images([drawings[key] for key in keys])
    average = _area_average(_SIDE, side)
    inked = (_ink(place, items, row, keys[row]) for row in range(len(keys)))
    images = np.stack([average @ ink @ average.T for ink in inked])
    records = fully_labeled(
        "omniglot",
        "image",
        # Shares of an area: only rounding may leave [0, 1].
        ArrayItems(np.clip(images, 0, 1).astype(np.float32)[..., None]),
        tuple(map("/".join, keys)),
        np.array([numbers["/".join(key[:2])] for key in keys]),
        names,
    )
    return pose(records, half_of_each_group(names), seed=seed)


def _drawings(place: pathlib.Path, files: Files) -> _Drawings:
    found: _Drawings = {}
    prefix = "" if files.zipped else f"{place.name}/"  # it may be an alphabet's own
    for name in files.names:
        if match := _DRAWING.search(prefix + name):
            found[match[1], match[2], match[3]] = name
    if not found:
        raise ValueError(
            f"{shown(place)} should hold drawings named like "
            f"Greek/character01/0394_01.png, found none among {len(files.names)} files. "
            f"{_ADVICE}"
        )
    _check_complete(place, found)
    return found


def _check_complete(place: pathlib.Path, drawings: _Drawings) -> None:
    """Every alphabet's characters are numbered through and have all drawings."""
    alphabets: dict[str, dict[int, int]] = {}
    for alphabet, character, _ in drawings:
        counts = alphabets.setdefault(alphabet, {})
        number = int(character.removeprefix("character"))
        counts[number] = counts.get(number, 0) + 1
    for alphabet, counts in alphabets.items():
        for number in range(1, max(counts) + 1):
            if counts.get(number, 0) != _DRAWINGS:
                raise ValueError(
                    f"{shown(place)} should hold {_DRAWINGS} drawings of "
                    f"{alphabet}/character{number:02d}, found {counts.get(number, 0)}"
                )


def _ink(
    place: pathlib.Path, items: Items, row: int, key: tuple[str, ...]
) -> np.ndarray:
    """(105, 105) float32, 1 where there is ink."""
    try:
        pixels = items[row]
    except BadItem as error:
        raise ValueError(f"{error}: it is damaged, fetch it anew") from error
    if pixels.shape[:2] != (_SIDE, _SIDE):
        raise ValueError(
            f"{'/'.join(key)} in {shown(place)} should have {_SIDE} x {_SIDE} pixels, "
            f"found {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return (pixels[..., 0] < 128).astype(np.float32)


def _area_average(source: int, target: int) -> np.ndarray:
    """(target, source) matrix: each row averages one target pixel's stretch."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    return (np.maximum(overlap, 0) * target / source).astype(np.float32)
