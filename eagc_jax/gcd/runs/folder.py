"""A run's folder: whose it is, and how it comes to be, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from eagc_jax import _files
from eagc_jax.gcd.runs.locking import LOCK_FILE, locked
from eagc_jax.gcd.runs.reading import read_json
from eagc_jax.gcd.sources.strings import shown

CONFIG_FILE = "config.json"  # of training runs that were compared
SETTINGS_FILE = "settings.json"  # of a discovery
SUMMARY_FILE = (
    "summary.json"  # of a finished discovery: where it is, all files are there
)
CHECKPOINTS = "checkpoints"  # folder of a run in progress, see training.checkpoints
LOGS = "logs"  # folder of what training says from epoch to epoch, see training.logs
MARK = "written_by"  # a folder is ours to overwrite if either file has this entry
OURS = "eagc_jax"


def check(path: str | os.PathLike[str]) -> pathlib.Path:
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
    if not (is_empty(folder) or is_ours(folder)):
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


def is_empty(folder: pathlib.Path) -> bool:
    """Whether nothing is there, or no more than a lock that a killed process left."""
    if not folder.is_dir():
        return True
    return all(path.name == LOCK_FILE for path in folder.iterdir())


@contextlib.contextmanager
def in_use(
    path: str | os.PathLike[str], settings: Mapping[str, object] | None = None
) -> Iterator[pathlib.Path]:
    """Holds a run's folder for this process while the run is made.

    With settings, the folder is marked as ours by its settings.json, from which the run
    can be started again (`to_go_on`). Where a finished run is there, its files stay as
    they are until this one is finished; where one has saved checkpoints, its settings
    come back if this one fails. In the folder `CHECKPOINTS` training is saved;
    what is finished comes into the folder by `whole`, inside of this, and then
    `forget_progress` removes the checkpoints.

    Args:
      path: of the folder, which is made if missing.
      settings: what settings.json is to hold besides the mark, as plain values.

    Yields:
      The folder.

    Raises:
      BlockingIOError: another process uses it, or this one; the message names it.
      OSError: as `check`, or the folder can't be written.

    Examples:
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     with in_use(pathlib.Path(parent, "run"), {"seed": 3}) as folder:
      ...         sorted(file.name for file in folder.iterdir())
      ['.in_use', 'checkpoints', 'settings.json']
    """
    folder = check(path)
    with contextlib.ExitStack() as stack:
        with _said_where(folder):
            stack.enter_context(locked(folder))
            if settings is not None:
                _check_own(folder / CHECKPOINTS)
                stack.enter_context(_unless_refused(folder))
                text = json.dumps({MARK: OURS, **settings}, indent=2, allow_nan=False)
                if not (folder / SUMMARY_FILE).exists():
                    _files.write_text(folder / SETTINGS_FILE, f"{text}\n")
                _files.write_text(folder / CHECKPOINTS / SETTINGS_FILE, f"{text}\n")
        yield folder


@contextlib.contextmanager
def _unless_refused(folder: pathlib.Path) -> Iterator[None]:
    """Where a run has saved something and another is tried, its settings come back."""
    files = (folder / SETTINGS_FILE, folder / CHECKPOINTS / SETTINGS_FILE)
    before: dict[pathlib.Path, bytes] = {}
    if any((folder / CHECKPOINTS).glob("*/[0-9]*")):
        before = {one: one.read_bytes() for one in files if one.is_file()}
    try:
        yield
    except BaseException:
        for one, content in before.items():
            if folder.is_dir() and one.parent.is_dir():
                _files.write_bytes(one, content)
        raise


def _check_own(folder: pathlib.Path) -> None:
    if folder.is_symlink():
        raise FileExistsError(
            errno.EEXIST,
            f"{shown(folder)} is a link, to a place that is not this run's",
        )


def to_go_on(path: str | os.PathLike[str]) -> pathlib.Path | None:
    """The settings file of the run that is in progress in a folder, if one is."""
    settings = pathlib.Path(path) / CHECKPOINTS / SETTINGS_FILE
    return settings if settings.is_file() else None


def forget_progress(path: str | os.PathLike[str]) -> None:
    """Removes what a run in progress has left: it is finished, or there is none.

    Where no run was finished in the folder, that is all of it.
    """
    folder = pathlib.Path(path)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    if (folder / SUMMARY_FILE).exists() or (folder / CONFIG_FILE).exists():
        return
    with contextlib.suppress(OSError):
        (folder / SETTINGS_FILE).unlink(missing_ok=True)
        (folder / LOCK_FILE).unlink(missing_ok=True)
        folder.rmdir()


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
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
    # Without its summary a run counts as unfinished: it goes first and comes last.
    files = sorted(partial.iterdir(), key=lambda file: file.name == SUMMARY_FILE)
    if files[-1:] and files[-1].name == SUMMARY_FILE:
        (folder / SUMMARY_FILE).unlink(missing_ok=True)
    for file in files:
        os.replace(file, folder / file.name)


def _has_mark(path: pathlib.Path) -> bool:
    try:
        return read_json(path).get(MARK) == OURS
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _said_where(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:  # of who uses it
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"results could not be written to {shown(folder)} "
            f"({error.strerror or error}); make room there, or choose another folder",
        ) from error
