"""A folder of photos: each class a folder, the unlabeled ones in one of their own."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pyarrow as pa

from eagc_jax.gcd.sources import images, listing
from eagc_jax.gcd.sources.listing import Listing
from eagc_jax.gcd.sources.records import BadItem, OnBadItem, Records
from eagc_jax.gcd.sources.strings import Strings, shown

_LABELED, _UNLABELED = ("labeled", "labelled"), ("unlabeled", "unlabelled")
_LAYOUT = (
    "A folder of photos is laid out as FOLDER/labeled/<class>/<photos> and "
    "FOLDER/unlabeled/<photos>, or as FOLDER/<class>/<photos> and "
    "FOLDER/unlabeled/<photos>"
)


def open_folder(
    folder: str | os.PathLike[str],
    *,
    on_bad_item: OnBadItem = "raise",
    require_labels: bool = True,
    max_pixels: int = images.MAX_PIXELS,
) -> Records:
    """Photos in folders that are named after their classes.

    Either `labeled/<class>/` and `unlabeled/`, or class folders beside `unlabeled`.
    Files are listed, not opened. Any of these may hold further folders.

    Args:
      folder: of the data; ids are paths relative to it.
      on_bad_item: "raise" refuses files that are no images by their name; "skip" leaves
        them out and lists them in the records' `skipped`. Hidden files and what
        operating systems leave behind are left out in either case.
      require_labels: False opens a folder without classes, to be embedded only, or one
        of class folders without `unlabeled`, to be posed as a benchmark.
      max_pixels: see `images.decode`.

    Returns:
      Labeled photos by class and path, then the unlabeled ones.

    Raises:
      ValueError: labeled or unlabeled photos are missing, or there is only one class.
      BadItem: a file is no image and on_bad_item is "raise".
    """
    root = os.fspath(folder)
    layout = _layout(root)
    found = _list(root, layout)
    skipped = _skipped(found, on_bad_item)
    found.classes = _filled(root, layout, found.classes, on_bad_item)
    if require_labels:
        _check_complete(root, layout, found)
    return _records(root, found, skipped, max_pixels)


@dataclasses.dataclass(frozen=True)
class _Layout:
    classes: dict[str, str]  # each class's folder, relative to the data's
    unlabeled: str | None  # likewise
    around: str  # the folder that holds the class folders, and nothing else


def _layout(root: str) -> _Layout:
    folders = listing.folders_in(root)
    labeled = next((name for name in _LABELED if name in folders), None)
    unlabeled = next((name for name in _UNLABELED if name in folders), None)
    if labeled is not None:
        names = listing.folders_in(os.path.join(root, labeled))
        classes = {name: f"{labeled}/{name}" for name in names}
        return _Layout(classes, unlabeled, labeled)
    return _Layout({name: name for name in folders if name != unlabeled}, unlabeled, "")


@dataclasses.dataclass
class _Found:
    classes: dict[str, Listing]
    loose: Listing  # beside the class folders
    unlabeled: Listing


def _list(root: str, layout: _Layout) -> _Found:
    return _Found(
        {name: listing.list_images(root, at) for name, at in layout.classes.items()},
        listing.list_images(root, layout.around, deep=False),
        listing.list_images(root, layout.unlabeled) if layout.unlabeled else Listing(),
    )


def _skipped(found: _Found, on_bad_item: OnBadItem) -> tuple[BadItem, ...]:
    # What is no image and lies in no class's folder is nobody's item: a README, a list.
    parts = [*found.classes.values(), found.unlabeled]
    others = [item for part in parts for item in part.others]
    if others and on_bad_item == "raise":
        more = f" (and {len(others) - 1} more files)" if len(others) > 1 else ""
        raise BadItem(
            others[0].item,
            f"{others[0].reason}{more}; take it away, or leave such files out with "
            'on_bad_item="skip"',
        )
    return tuple(others)


def _filled(
    root: str, layout: _Layout, classes: dict[str, Listing], on_bad_item: OnBadItem
) -> dict[str, Listing]:
    """The classes that have images."""
    empty = [layout.classes[name] for name in classes if not len(classes[name])]
    if empty and on_bad_item == "raise":
        raise ValueError(
            f"{shown(os.path.join(root, empty[0]))} should hold images of its class, "
            f'found none; take the folder away, or go on with on_bad_item="skip"'
        )
    return {name: images_ for name, images_ in classes.items() if len(images_)}


def _check_complete(root: str, layout: _Layout, found: _Found) -> None:
    place = shown(root)
    if not layout.classes:
        raise ValueError(
            f"{place} should hold a folder for each known class, found no labeled "
            f"folder and no class folders. {_LAYOUT}"
        )
    if not len(found.unlabeled):
        if layout.unlabeled is None:
            what = "found no folder of that name"
        else:
            what = f"found no images in {layout.unlabeled}"
        raise ValueError(
            f"{place} should hold unlabeled images to discover categories in, in a "
            f"folder `unlabeled`, {what}. {_LAYOUT}"
        )
    if len(found.classes) < 2:
        raise ValueError(
            f"{place} should have at least two known classes, found "
            f"{', '.join(map(shown, found.classes)) or 'none'}. {_LAYOUT}"
        )
    if len(found.loose):
        first = Strings(found.loose.chunks[0])[0]
        raise ValueError(
            f"{shown(first)} and {len(found.loose) - 1} more images in {place} lie "
            f"beside the class folders, in none of them. {_LAYOUT}"
        )


def _records(
    root: str, found: _Found, skipped: tuple[BadItem, ...], max_pixels: int
) -> Records:
    classes = tuple(found.classes)
    parts = [*found.classes.values(), found.loose, found.unlabeled]
    numbers = np.array([*range(len(classes)), -1, -1], np.int32)
    labels = np.repeat(numbers, [len(part) for part in parts])
    if not len(labels):
        raise ValueError(f"{shown(root)} should hold images, found none. {_LAYOUT}")
    paths = Strings(
        pa.chunked_array([c for p in parts for a in p.chunks for c in a.chunks])
    )
    return Records(
        os.path.basename(os.path.abspath(root)),
        "image",
        images.ImageFiles(root, paths, max_pixels),
        paths.printable(),
        labels,
        tuple(
            name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            for name in classes
        ),
        len(classes),
        truth=labels if labels.min() >= 0 else None,
        skipped=skipped,
    )
