"""A run's folder: whose it is, and how it comes to be, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from eagc_jax.gcd.sources.strings import shown

CONFIG_FILE = "config.json"  # of training runs that were compared
SETTINGS_FILE = "settings.json"  # of a discovery
MARK = "written_by"  # a folder is ours to overwrite if either file has this entry
OURS = "eagc_jax"


def check(path: str | os.PathLike) -> pathlib.Path:
    """The path, if a run may be written there; nothing is made or changed.

    Call it before the work, so that hours are not spent on results without a place.

    Args:
      path: of the folder, which need not exist.

    Returns:
      The path.

    Raises:
      FileExistsError: it is a file, or a folder that holds something else.
      PermissionError: it may not be written.
    """
    folder = pathlib.Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"{shown(folder)} is a file; choose another folder for results"
        )
    if folder.is_dir() and any(folder.iterdir()) and not is_ours(folder):
        raise FileExistsError(
            f"{shown(folder)} holds files that eagc_jax did not write; choose another "
            "folder for results, or empty this one"
        )
    there = next(
        p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(
            f"{shown(folder)} can't be written: {shown(there)} is no folder that you may "
            "write to; choose another folder for results"
        )
    return folder


def is_ours(folder: pathlib.Path) -> bool:
    """Whether this package wrote the folder."""
    return any(_has_mark(folder / name) for name in (CONFIG_FILE, SETTINGS_FILE))


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to write files into, which become the run's when all of them are there.

    They are written beside it, under another name. Where anything fails, what was there
    before stays, and nothing is left beside it.

    Args:
      path: of the run's folder. A folder of an earlier run keeps the files that this one
        has not.

    Yields:
      The folder to write into.

    Raises:
      OSError: as `check`; or the disk is full, or the folder can't be written.

    Examples:
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     run = pathlib.Path(parent, "run")
      ...     with whole(run) as folder:
      ...         _ = (folder / SETTINGS_FILE).write_text("{}")
      ...     [file.name for file in run.iterdir()]
      ['settings.json']
    """
    folder = check(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(
        tempfile.mkdtemp(".partial", f".{folder.name[:100]}.", folder.parent)
    )
    try:
        with _said_where(folder):
            yield partial
            _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: pathlib.Path, folder: pathlib.Path) -> None:
    os.chmod(partial, 0o755)  # temporary folders are private
    with contextlib.suppress(
        OSError
    ):  # it is there, and has files or may not be replaced
        os.rename(partial, folder)
        return
    for file in sorted(partial.iterdir()):
        os.replace(file, folder / file.name)


def _has_mark(path: pathlib.Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get(MARK) == OURS


@contextlib.contextmanager
def _said_where(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"results could not be written to {shown(folder)} "
            f"({error.strerror or error}); make room there, or choose another folder",
        ) from error
