"""Grocery Store: fruit, vegetables and packages on the shelves of shops."""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from eagc_jax.gcd.sources.named._files import Files
from eagc_jax.gcd.sources.named._lists import split_lines
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.posing import fully_labeled, pose_half
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import Strings, shown

_NAMES = ("grocery_store.zip", "grocery", "GroceryStoreDataset/dataset")
_ADVICE = (
    "Give the zip file or the folder with classes.csv, train.txt, val.txt and test.txt "
    "from the repository github.com/marcusklasson/GroceryStoreDataset (folder dataset)."
)
Level = Literal["fine", "coarse"]


@register("grocery")
def grocery(
    root: str | os.PathLike[str] | None = None,
    *,
    parts: Sequence[str] = ("train", "val", "test"),
    level: Level = "fine",
    seed: int = 0,
) -> Records:
    """5,421 photographs of 81 groceries, every second of them known.

    There is no published split for discovery: known classes, and half of each one's
    photos that are labeled, are drawn by `seed`.

    Args:
      root: the zip file, or the folder that holds classes.csv, or one around it.
      parts: of the data's own split, all together by default.
      level: "fine" (81 classes) or "coarse" (43).
      seed: of the draws.

    Returns:
      Records of uint8 (H, W, 3) images in the order of the lists, with `parts`.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: a list is broken, or names a photo or class that is not there.

    References:
      Klasson, Zhang and Kjellström, "A Hierarchical Grocery Store Image Dataset with
      Visual and Semantic Labels", WACV 2019.
    """
    if level not in get_args(Level):
        choices = " or ".join(get_args(Level))
        raise ValueError(f"level must be {choices}, got {level!r}")
    place = locate("Grocery Store", root, _NAMES, _ADVICE)
    files = Files(place)
    base = _base(files)
    names = _class_names(files, base, level)
    paths, classes, of_part = _listed(files, base, parts, level)
    wrong = [p for p, c in zip(paths, classes, strict=True) if not 0 <= c < len(names)]
    missing = set(files.names)
    wrong += [path for path in paths if base + path not in missing]
    if wrong:
        raise ValueError(
            f"{shown(place)} should hold every photo and class that its lists name; "
            f"{shown(wrong[0])} or its class is not there"
        )
    records = fully_labeled(
        "grocery",
        "image",
        files.images([base + path for path in paths]),
        Strings.of(paths),
        np.array(classes),
        names,
        parts=np.array(of_part),
    )
    return pose_half(records, seed=seed)


def _base(files: Files) -> str:
    """Path of the folder that holds classes.csv, with a slash at its end, or ""."""
    found = [n for n in files.names if posixpath.basename(n) == "classes.csv"]
    if not found:
        raise ValueError(
            f"{shown(files.place)} should hold classes.csv, found none among "
            f"{len(files.names)} files. {_ADVICE}"
        )
    return min(found, key=len).removesuffix("classes.csv")


def _class_names(files: Files, base: str, level: Level) -> tuple[str, ...]:
    rows = csv.DictReader(io.StringIO(files.read(f"{base}classes.csv").decode("utf-8")))
    prefix = "" if level == "fine" else "Coarse "
    try:
        named = {
            int(row[f"{prefix}Class ID (int)"]): row[f"{prefix}Class Name (str)"]
            for row in rows
        }
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{shown(files.place)}/{base}classes.csv should have columns of class names "
            f"and ids, found {rows.fieldnames}"
        ) from error
    return tuple(named[number] for number in sorted(named))


def _listed(
    files: Files, base: str, parts: Sequence[str], level: Level
) -> tuple[list[str], list[int], list[str]]:
    """Paths, class numbers and parts of the photos in the lists."""
    paths, classes, of_part = [], [], []
    for part in parts:
        name = f"{base}{part}.txt"
        if name not in files.names:
            raise ValueError(
                f"parts must be lists of {shown(files.place)}, got {part!r}"
            )
        text = files.read(name).decode("utf-8")
        for path, fine, coarse in split_lines(text, name, ",", 3):
            paths.append(path)
            classes.append(int(fine if level == "fine" else coarse))
            of_part.append(part)
    return paths, classes, of_part
