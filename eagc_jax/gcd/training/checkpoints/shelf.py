"""Checkpoints as numbered folders, each of which appears whole or not at all."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_NAME = re.compile(r"[0-9]{8}")
_PARTIAL = ".partial"
_AT_ONCE = 16


class Shelf:
    """The newest few of a run's checkpoints; used by one process at a time.

    A checkpoint is written under another name, brought to the disk, and renamed. One that
    is removed gets another name first. So a folder with a number for its name is whole,
    whenever the process was killed.

    Args:
      folder: that holds them.
      keep: how many of them.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        self.folder: pathlib.Path = pathlib.Path(folder)
        self._keep = keep

    def numbers(self) -> list[int]:
        """Of the checkpoints that are there, the newest first; links don't count."""
        if not self.folder.is_dir():
            return []
        with os.scandir(self.folder) as entries:
            found = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        return sorted((int(n) for n in found if _NAME.fullmatch(n)), reverse=True)

    def path(self, number: int) -> pathlib.Path:
        """The folder of a checkpoint."""
        return self.folder / f"{number:08d}"

    def add(self, fill: Callable[[pathlib.Path], None]) -> int:
        """A new checkpoint; those that are too many go afterwards.

        Args:
          fill: writes its files into the folder that it is given.

        Returns:
          Its number.
        """
        number = max(self.numbers(), default=0) + 1
        partial = self.folder / f".{number:08d}{_PARTIAL}"
        _remove(partial)
        partial.mkdir()
        try:
            fill(partial)
            _to_disk(partial)
            os.rename(partial, self.path(number))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(self.folder)
        for old in self.numbers()[self._keep :]:
            self._discard(old)
        return number

    def clear_leftovers(self) -> None:
        """Removes what a killed process left half-written or half-removed."""
        for entry in list(self.folder.iterdir()):
            name = entry.name
            if name.startswith(".") and name.endswith(_PARTIAL):
                _remove(entry)

    def _discard(self, number: int) -> None:
        going = self.folder / f".{number:08d}.old{_PARTIAL}"
        _remove(going)
        os.rename(self.path(number), going)
        shutil.rmtree(going, ignore_errors=True)


def _remove(path: pathlib.Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _to_disk(folder: pathlib.Path) -> None:
    paths = [folder, *folder.rglob("*")]
    # Many at once: the file system then brings them to the disk together.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_sync, paths))


def _sync(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
