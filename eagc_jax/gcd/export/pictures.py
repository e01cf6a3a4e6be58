"""Photos beside an export: links to them, copies, or files of what was none."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
from PIL import Image

from eagc_jax.gcd.export.names import safe
from eagc_jax.gcd.sources import BadItem, ChosenItems, Records
from eagc_jax.gcd.sources import images as sources_images


def file_of(records: Records, row: int) -> str | None:
    """The file that an item is, or None for one in an archive or an array."""
    items = records.items
    while isinstance(items, ChosenItems):
        row, items = int(items.rows[row]), items.items
    if not isinstance(items, sources_images.ImageFiles):
        return None
    return os.path.abspath(items.path(row))


def place(
    records: Records,
    row: int,
    folder: pathlib.Path,
    free: Callable[[str], str],
    *,
    copy: bool,
) -> str:
    """Puts an item's photo into a folder.

    Args:
      records: of images.
      row: which item.
      folder: it is made if missing.
      free: from a name that is safe to one that is free in this folder.
      copy: copy the file; else link to it. What is no file is written as PNG.

    Returns:
      Its name in the folder.

    Raises:
      BadItem: the file is not there any more, or can't be decoded.
      OSError: the folder can't be written, or can't hold links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = file_of(records, row)
    if source is None:
        name = free(safe(records.ids[row], ending=".png"))
        _picture(records.items[row]).save(folder / name)
        return name
    if not os.path.isfile(source):
        raise BadItem(source, "there is no such file any more")
    stem, ending = os.path.splitext(os.path.basename(source))
    name = free(safe(stem, ending=ending))
    if copy:
        shutil.copyfile(source, folder / name)
    else:
        _link(source, folder / name)
    return name


def size(records: Records, row: int) -> tuple[int, int]:
    """Width and height in pixels, upright."""
    source = file_of(records, row)
    if source is not None:
        return sources_images.size(source, source)
    height, width = np.shape(records.items[row])[:2]
    return width, height


def _link(source: str, target: pathlib.Path) -> None:
    try:
        os.symlink(source, target)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}: no links can be made here; use --copy"
        ) from error


def _picture(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        array = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
