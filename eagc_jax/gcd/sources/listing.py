"""Listing folders of many files: no file is opened, no name stays a Python object."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from eagc_jax.gcd.sources.images import extensions
from eagc_jax.gcd.sources.records import BadItem
from eagc_jax.gcd.sources.strings import ordered, pack

# What systems and programs leave in folders; names that begin with a dot, too.
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}


@dataclasses.dataclass
class Listing:
    """The images below a folder, and what else was found there."""

    chunks: list[pa.ChunkedArray] = dataclasses.field(default_factory=list)
    others: list[BadItem] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        """How many images."""
        return sum(map(len, self.chunks))


def folders_in(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not _litter(e.name) and _is(e.is_dir))


def list_images(
    root: str, below: str, *, deep: bool = True, found: Listing | None = None
) -> Listing:
    """All images below `root/below`, as paths relative to root, sorted by folder.

    A linked folder is listed as if it were there; one that is a link to a folder around
    itself is left out, so that loops end.

    Args:
      root: of the data.
      below: a folder in it, with forward slashes; "" for root itself.
      deep: False leaves out the folders in it.
      found: a listing to add to.
    """
    found = Listing() if found is None else found
    start = os.path.join(root, below)
    _walk(root, below, deep, frozenset([_identity(start)]), found)
    return found


def _walk(
    root: str,
    below: str,
    deep: bool,
    around: frozenset[tuple[int, int]],
    found: Listing,
) -> None:
    folders: list[str] = []
    names = ordered(pack(_names(root, below, folders, found)))
    if len(names):
        found.chunks.append(_under(below, names))
    for name in sorted(folders) if deep else ():
        inner = _joined(below, name)
        identity = _identity(os.path.join(root, inner))
        if identity not in around:
            _walk(root, inner, deep, around | {identity}, found)


def _names(
    root: str, below: str, folders: list[str], found: Listing
) -> Iterator[bytes]:
    """Names of a folder's images; its folders and all else go to the lists."""
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if _litter(entry.name):
                continue
            if _is_image(entry.name) and _is(entry.is_file):
                yield os.fsencode(entry.name)
            elif _is(entry.is_dir):
                folders.append(entry.name)
            else:
                found.others.append(_other(_joined(below, entry.name), entry))


def _other(path: str, entry: os.DirEntry[str]) -> BadItem:
    if entry.is_symlink() and not os.path.exists(entry.path):
        return BadItem(path, "is a link to a file that is not there")
    if not _is(entry.is_file):
        return BadItem(path, "is neither a file nor a folder")
    end = os.path.splitext(entry.name)[1]
    return BadItem(path, f"is no image by its name, which ends in {end or 'nothing'}")


def _joined(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name


def _under(below: str, names: pa.ChunkedArray) -> pa.ChunkedArray:
    if not below:
        return names
    prefix = pa.scalar(os.fsencode(below), pa.large_binary())
    slash = pa.scalar(b"/", pa.large_binary())
    return pc.binary_join_element_wise(prefix, names, slash)


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link that leads to itself
        return False


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in extensions()
