"""What a cache holds, and making room in it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from eagc_jax.gcd.backbones.cache import arrays, files, store

_NAMES = re.compile(  # relative to the folder; files of other names are none of ours
    rf"({store.FOLDER}/[0-9a-f]{{32}}|{arrays.FOLDER})/"
    rf"[0-9a-f]{{32}}({re.escape(files.SUFFIX)}|-[0-9a-f]{{16}}{re.escape(files.PART)})"
)
_ABANDONED_SECONDS = 3600.0  # since anything was written to an unfinished file


Keeps = Literal["features", "array"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """The features of one backbone and preparation, or one array made of features."""

    kind: Keeps
    backbone: str  # its fingerprint; of an array, its key
    preparation: str  # empty for an array
    items: int  # rows; one that two programs wrote at the same time counts twice
    bytes: int
    last_used: float  # seconds since the epoch, as `time.time` gives them
    damaged: tuple[Path, ...] = ()  # files that are ignored; among the bytes


class Pruned(NamedTuple):
    """What `prune` took away, or would take away."""

    paths: tuple[Path, ...]
    bytes: int


class _File(NamedTuple):
    path: Path
    bytes: int
    last_used: float
    kind: Keeps
    backbone: str
    preparation: str
    items: int
    state: Literal["whole", "damaged", "unfinished", "not ours"]


def describe(folder: str | os.PathLike[str]) -> list[Entry]:
    """What a cache holds, the entry used last first.

    Only headers are read, so a file counts as damaged here if it is truncated or not
    of this format.

    Args:
      folder: of the cache; it need not exist.

    Returns:
      An entry for each backbone and preparation, and for each array. Damaged files of
      which nobody knows what they held form an entry whose backbone is "unknown",
      files of another version of the cache one "of another version".

    Examples:
      >>> describe("/no/such/folder")
      []
    """
    groups: dict[tuple[str, Path], list[_File]] = {}
    for file in _files(Path(folder)):
        if file.state in ("whole", "damaged"):
            groups.setdefault(_group(file), []).append(file)
    entries = [_entry(group) for group in groups.values()]
    return sorted(entries, key=lambda entry: -entry.last_used)


def prune(
    folder: str | os.PathLike[str],
    *,
    keep_bytes: int | None = None,
    older_than: float | None = None,
    backbone: str | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Removes damaged files, those that were never finished, and what the options say.

    Files that the cache did not write are never touched, nor are symbolic links.
    Another program that uses the cache meanwhile computes again what it misses.

    Args:
      folder: of the cache; it need not exist.
      keep_bytes: removes the files used longest ago until no more than that are left.
      older_than: removes what was not used for so many seconds.
      backbone: the other options are about files of backbones whose fingerprint begins
        so; alone, it removes all of those.
      dry_run: removes nothing.

    Returns:
      The files removed (or that would be), and their bytes.

    Raises:
      ValueError: a negative number.

    Examples:
      >>> prune("/no/such/folder", keep_bytes=0)
      Pruned(paths=(), bytes=0)
    """
    for name, value in (("keep_bytes", keep_bytes), ("older_than", older_than)):
        if value is not None and value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    found = list(_files(Path(folder)))
    whole = [file for file in found if file.state == "whole"]
    useless = [file for file in found if _is_useless(file)]
    chosen = useless + _chosen(whole, keep_bytes, older_than, backbone)
    removed = [file for file in chosen if dry_run or _remove(file.path)]
    return Pruned(
        tuple(file.path for file in removed), sum(file.bytes for file in removed)
    )


def _chosen(
    whole: list[_File],
    keep_bytes: int | None,
    older_than: float | None,
    backbone: str | None,
) -> list[_File]:
    if backbone is not None:
        whole = [file for file in whole if file.backbone.startswith(backbone)]
        if keep_bytes is None and older_than is None:
            return whole
    now, left = time.time(), sum(file.bytes for file in whole)
    chosen = []
    for file in sorted(whole, key=lambda file: file.last_used):
        too_old = older_than is not None and now - file.last_used > older_than
        if too_old or (keep_bytes is not None and left > keep_bytes):
            chosen.append(file)
            left -= file.bytes
    return chosen


def _is_useless(file: _File) -> bool:
    abandoned = time.time() - file.last_used > _ABANDONED_SECONDS
    return file.state == "damaged" or (file.state == "unfinished" and abandoned)


def _remove(path: Path) -> bool:
    """Whether it could be removed; a folder that is empty now goes too."""
    try:
        path.unlink()
    except OSError:  # gone already, or not ours to remove
        return False
    if path.parent.name != arrays.FOLDER:
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return True


def _files(folder: Path) -> Iterator[_File]:
    """All that the cache wrote there."""
    patterns = (f"{store.FOLDER}/*/*", f"{arrays.FOLDER}/*")
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        named_so = _NAMES.fullmatch(path.relative_to(folder).as_posix())
        if named_so and not path.is_symlink() and not path.parent.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                yield _file(path)


def _file(path: Path) -> _File:
    status = path.stat()
    about = (path, status.st_size, status.st_mtime)
    kind = "array" if path.parent.name == arrays.FOLDER else "features"
    if path.suffix == files.PART:
        return _File(*about, kind, "unknown", "", 0, "unfinished")
    try:
        _, metadata, kept = files.read_header(path)
    except files.OtherFormat as error:
        state = "whole" if error.is_ours else "not ours"
        return _File(*about, kind, "of another version", "", 0, state)
    except files.DamagedFile:
        return _File(*about, kind, "unknown", "", 0, "damaged")
    if kind == "array":
        return _File(
            *about,
            kind,
            metadata.get("key", "unknown"),
            "",
            _length(kept, "array"),
            "whole",
        )
    names = (metadata.get("backbone", "unknown"), metadata.get("preparation", ""))
    return _File(*about, kind, *names, _length(kept, "features"), "whole")


def _length(kept: dict[str, files.Kept], name: str) -> int:
    shape = kept[name].shape if name in kept else ()
    return shape[0] if shape else 1


def _group(file: _File) -> tuple[str, Path]:
    """Damaged shards belong to those beside them, which say what they hold."""
    return file.kind, file.path.parent if file.kind == "features" else file.path


def _entry(group: Iterable[_File]) -> Entry:
    group = sorted(group, key=lambda file: file.state != "whole")
    return Entry(
        group[0].kind,
        group[0].backbone,
        group[0].preparation,
        items=sum(file.items for file in group),
        bytes=sum(file.bytes for file in group),
        last_used=max(file.last_used for file in group),
        damaged=tuple(file.path for file in group if file.state == "damaged"),
    )
