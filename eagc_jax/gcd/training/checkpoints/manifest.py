"""What a checkpoint says of itself: where in the run it is, of which run, its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import TypeVar

from eagc_jax._files import JsonObject
from eagc_jax.gcd.runs.reading import MEGABYTE, read_json
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.gcd.training.checkpoints import facts
from eagc_jax.gcd.training.checkpoints.arrays import Damaged, file_sizes

FILE = "checkpoint.json"
FORMAT = 1  # goes up when a checkpoint's parts or their meaning change
_MOST = 4 * MEGABYTE

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """How far a run has come: so many steps of an epoch (from 0) are over."""

    training: bool  # or still the warm start
    epoch: int
    step: int = 0

    def __str__(self) -> str:
        phase = "training" if self.training else "the warm start"
        inside = f" and {self.step} steps" if self.step else ""
        return f"{self.epoch} epochs{inside} of {phase}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All of it; the files are added when they are there."""

    place: Place
    epochs: int  # that are in the history
    facts: dict[str, str]
    versions: dict[str, str]
    draws: str  # digest of the rows that the epoch draws

    def write(self, folder: pathlib.Path) -> None:
        """Beside the files that it lists."""
        files = {
            name: [size, _digest_of(folder / name)]
            for name, size in sorted(file_sizes(folder).items())
        }
        content = {
            "written_by": "eagc_jax",
            "format": FORMAT,
            "version": facts.package_version(),
            **dataclasses.asdict(self),
            "files": files,
        }
        content["digest"] = _digest(content)
        (folder / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read(folder: pathlib.Path, most: int) -> Manifest:
    """The manifest of a checkpoint whose files are as they were written.

    Args:
      folder: of the checkpoint.
      most: bytes that its files may have together.

    Raises:
      Damaged: something is missing or altered.
      ValueError: another version wrote it.
    """
    sizes = file_sizes(folder)  # before anything is opened: no links
    try:
        content = read_json(folder / FILE, most=_MOST)
        seal = content.pop("digest", None)
        as_written = seal == _digest(content)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error
    if not as_written:
        raise Damaged(f"{shown(folder / FILE)} is not as it was written")
    _check_version(folder, content)
    del sizes[FILE]
    _check_files(folder, sizes, content.get("files"), most)
    try:
        place = Place(
            _is(bool, content["place"]["training"]),
            _is(int, content["place"]["epoch"]),
            _is(int, content["place"]["step"]),
        )
        return Manifest(
            place,
            _is(int, content["epochs"]),
            _is(dict, content["facts"]),
            _is(dict, content["versions"]),
            _is(str, content["draws"]),
        )
    except (KeyError, TypeError) as error:
        raise Damaged(f"{shown(folder / FILE)} lacks a part: {error}") from error


def _check_version(folder: pathlib.Path, content: JsonObject) -> None:
    theirs = {name: str(content.get(name)) for name in ("format", "version")}
    ours = {"format": str(FORMAT), "version": facts.package_version()}
    differ = facts.differences(theirs, ours)
    if differ:
        raise ValueError(
            f"{shown(folder)} is a checkpoint of another version of eagc_jax: {differ}; "
            "go on with that version, or start anew in another folder"
        )


def _check_files(
    folder: pathlib.Path, sizes: dict[str, int], files: object, most: int
) -> None:
    if not isinstance(files, dict):
        raise Damaged(f"{shown(folder / FILE)} lacks the list of files")
    if sum(sizes.values()) > most:
        raise Damaged(
            f"{shown(folder)} should have at most {most:,} bytes, found "
            f"{sum(sizes.values()):,}"
        )
    if set(sizes) != set(files):
        name = sorted(set(sizes) ^ set(files))[0]
        raise Damaged(f"{shown(folder)}: {shown(name)} is missing, or is too much")
    for name, size in sizes.items():
        if files[name] != [size, _digest_of(folder / name)]:
            raise Damaged(f"{shown(folder / name)} is not as it was written")


def _is(kind: type[_T], value: object) -> _T:
    if (
        not isinstance(value, kind)
        or type(value) is not kind  # True is no 1
        or (isinstance(value, int) and value < 0)
    ):
        raise TypeError(f"{value!r} is no {kind.__name__}"[:80])
    return value


def _digest(content: JsonObject) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
