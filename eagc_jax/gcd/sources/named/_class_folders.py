"""Data sets whose classes are folders of photos."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from eagc_jax.gcd.sources import listing
from eagc_jax.gcd.sources.images import ImageFiles
from eagc_jax.gcd.sources.posing import fully_labeled
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.strings import Strings, shown


def class_folders(name: str, place: pathlib.Path, part: str) -> list[str]:
    """Names of the class folders in a part of a data set, sorted as text.

    Raises:
      FileNotFoundError: there is no such part.
    """
    folder = place / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} should hold a folder {part} with a folder for each class, not "
            f"found in {shown(place)}"
        )
    return listing.folders_in(os.fspath(folder))


def from_class_folders(
    name: str, place: pathlib.Path, part: str, folders: Sequence[str]
) -> Records:
    """The photos of some class folders, by class and file name; ids are their paths."""
    root = os.fspath(place)
    found = [listing.list_images(root, f"{part}/{folder}") for folder in folders]
    for folder, images in zip(folders, found, strict=True):
        if not len(images):
            raise ValueError(
                f"{shown(place / part / folder)} should hold images, found none"
            )
    paths = Strings(
        pa.chunked_array(
            [c for one in found for part_ in one.chunks for c in part_.chunks]
        )
    )
    labels = np.repeat(np.arange(len(folders)), [len(images) for images in found])
    items = ImageFiles(place, paths)
    return fully_labeled(name, "image", items, paths.printable(), labels, folders)
