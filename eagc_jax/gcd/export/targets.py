"""Where an export goes: whose place it is, and how it comes to be, whole or not."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from eagc_jax._files import JsonObject
from eagc_jax._version import __version__
from eagc_jax.gcd.runs.folder import MARK, OURS
from eagc_jax.gcd.runs.reading import read_json
from eagc_jax.gcd.sources.strings import shown

# Lies in each folder of an export and lists its files.
MANIFEST = "export.json"
_MOST = 2**30  # bytes of a manifest


def check(
    path: str | os.PathLike[str], *, ending: str, overwrite: bool = False
) -> None:
    """Whether an export may be written there; nothing is made or changed.

    Args:
      path: of the file or folder.
      ending: of the file; "" for a folder.
      overwrite: a file may be replaced.

    Raises:
      ValueError: a file of another ending.
      FileExistsError: a file is there, or a folder that holds something else than an
        earlier export.
      PermissionError: nothing may be written there.
    """
    place = pathlib.Path(path)
    if ending and place.suffix.lower() != ending:
        raise ValueError(
            f"out must be a file that ends in {ending}, got {shown(place)}"
        )
    if os.path.lexists(place):
        _check_existing(place, bool(ending), overwrite)
    above = next(p for p in place.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PermissionError(
            f"{shown(place)} can't be written: {shown(above)} is no folder that you may "
            "write to; choose another place with --out"
        )


def _check_existing(place: pathlib.Path, file: bool, overwrite: bool) -> None:
    if file and place.is_dir():
        raise FileExistsError(f"{shown(place)} is a folder; choose another name")
    if file and not overwrite:
        raise FileExistsError(
            f"{shown(place)} is there already; choose another name with --out, or "
            "overwrite it with --overwrite"
        )
    if not file and (place.is_symlink() or not place.is_dir()):
        raise FileExistsError(f"{shown(place)} is no folder; choose another with --out")
    foreign = None if file else _foreign(place)
    if foreign is not None:
        raise FileExistsError(
            f"{shown(place)} holds {shown(foreign)}, which no export wrote; choose "
            "another folder with --out, or empty this one"
        )


def _foreign(folder: pathlib.Path) -> str | None:
    """A file that is not of an earlier export, or None."""
    ours = {MANIFEST, *_listed(folder)}
    return next((name for name in _files_in(folder) if name not in ours), None)


def _listed(folder: pathlib.Path) -> list[str]:
    try:
        found = read_json(folder / MANIFEST, most=_MOST)
    except (OSError, ValueError):
        return []
    files = found.get("files")
    if found.get(MARK) != OURS or not isinstance(files, list):
        return []
    return [name for name in files if isinstance(name, str)]


def _files_in(folder: pathlib.Path) -> Iterator[str]:
    """Relative to it, with slashes; links are not followed."""
    for place, folders, files in os.walk(folder):
        links = [f for f in folders if os.path.islink(os.path.join(place, f))]
        for name in sorted([*files, *links]):
            yield pathlib.Path(place, name).relative_to(folder).as_posix()


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A file to write, which is moved to its place when it is all there."""
    place = pathlib.Path(path)
    with _beside(place) as partial:
        file = partial / place.name
        yield file
        with open(file, "rb") as written:
            os.fsync(written.fileno())
        os.replace(file, place)


@contextlib.contextmanager
def whole_folder(
    path: str | os.PathLike[str], about: JsonObject
) -> Iterator[pathlib.Path]:
    """A folder to write into, which is moved to its place when all is there.

    Args:
      path: of the folder. One that is there is replaced; see `check`.
      about: what else its export.json says.

    Yields:
      The folder to write into.
    """
    place = pathlib.Path(path)
    with _beside(place) as partial:
        made = partial / "made"
        made.mkdir()
        yield made
        entries = {MARK: OURS, "version": __version__, **about}
        text = json.dumps({**entries, "files": [*_files_in(made)]}, indent=1)
        (made / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
        if place.is_dir():
            _swap(made, place, partial / "old")
        else:
            os.rename(made, place)


def _swap(made: pathlib.Path, place: pathlib.Path, old: pathlib.Path) -> None:
    os.rename(place, old)
    try:
        os.rename(made, place)
    except BaseException:
        os.rename(old, place)
        raise


@contextlib.contextmanager
def _beside(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder of our own in the same one, gone afterwards."""
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(
        tempfile.mkdtemp(".partial", ".export.", place.absolute().parent)
    )
    try:
        yield partial
    except OSError as error:
        raise OSError(
            error.errno,
            f"{shown(place)} could not be written ({error.strerror or error}); nothing "
            "was left there",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
