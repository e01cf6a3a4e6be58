"""Formats by name, and the one function that exports to any of them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import pkgutil
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np

from eagc_jax.gcd.export import targets
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.settings.choices import SourceSettings
from eagc_jax.gcd.sources import Kind, Records
from eagc_jax.gcd.sources.strings import shown

Only = Literal["all", "unlabeled", "novel"]
OnProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a format writes: N items, and the category that each was given."""

    records: Records
    assignment: Assignment  # of the same N rows
    source: SourceSettings | None  # where the records came from, if that is known
    copy: bool  # photos are copied; else links are made to them
    out: pathlib.Path  # where it will lie; what a format is given lies elsewhere
    on_progress: OnProgress | None = None

    def rows(self) -> Iterator[int]:
        """0, 1, ..., N - 1, telling how far it is: for the loop that takes the time."""
        total = len(self.assignment)
        for row in range(total):
            yield row
            if self.on_progress is not None:
                self.on_progress(row + 1, total)


class Exported(NamedTuple):
    """What was written."""

    path: pathlib.Path
    items: int
    notes: tuple[str, ...]  # for people: what to do with it next


# Writes to the path that it is given, a file's or an empty folder's, and nowhere else.
Write = Callable[[Chosen, pathlib.Path], tuple[str, ...]]


class _Format(NamedTuple):
    write: Write
    kinds: Collection[Kind]
    ending: str  # of the file; "" for a folder


_FORMATS: dict[str, _Format] = {}


def register(
    name: str, *, kinds: Collection[Kind], ending: str = ""
) -> Callable[[Write], Write]:
    r"""A decorator that makes a function the writer of a format.

    Args:
      name: lower case, with dashes; what `export` and the command line know it by.
      kinds: of items that the format can hold.
      ending: of the file that it is, with its dot; "" for a folder.

    Returns:
      The decorator, which returns the function as it is.

    Raises:
      ValueError: the name is taken.

    Examples:
      >>> @register("names", kinds=("text", "image"), ending=".txt")
      ... def names(chosen, path):
      ...     path.write_text("".join(f"{one}\n" for one in chosen.assignment.assigned))
      ...     return ()
      >>> "names" in formats()
      True
      >>> unregister("names")
    """

    def decorate(function: Write) -> Write:
        if name in _FORMATS:
            raise ValueError(f"name must not be taken, got {name!r}, which is")
        _FORMATS[name] = _Format(function, tuple(kinds), ending)
        return function

    return decorate


def unregister(name: str) -> None:
    """Takes a name off the list."""
    del _FORMATS[name]


def formats() -> dict[str, str]:
    """Names of all formats in alphabetical order, each with its file's ending or "".

    Examples:
      >>> formats()["csv"], formats()["coco"]
      ('.csv', '')
    """
    _find_all()
    return {name: _FORMATS[name].ending for name in sorted(_FORMATS)}


def export(
    records: Records,
    assignment: Assignment,
    out: str | os.PathLike[str],
    to: str,
    *,
    source: SourceSettings | None = None,
    only: Only = "all",
    at_least: float = 0.0,
    copy: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Writes items and their categories in a format that another tool reads.

    The data itself is only read. What is written appears whole or not at all.

    Args:
      records: N items.
      assignment: of the same N, in the same order.
      out: the file or folder to write. A folder that an earlier export wrote, and that
        holds nothing else, is replaced.
      to: one of `formats()`.
      source: where the records came from: `csv` and `parquet` take the columns of the
        table from there.
      only: "all" items, those that are "unlabeled", or of these those in a "novel"
        category.
      at_least: leave out unlabeled items whose probability is lower, in [0, 1].
      copy: copy photos instead of linking to them.
      overwrite: replace a file that is there.
      on_progress: called with `(done, total)` after each item, by formats that write
        one after another.

    Returns:
      What was written, and what to do with it.

    Raises:
      ValueError: there is no such format, it can't hold such items, an option is out of
        its range, or no item is left.
      BadItem: a photo that was there is not any more.
      OSError: something else is there, or it can't be written.

    Examples:
      >>> import tempfile
      >>> from eagc_jax.gcd.sources import ArrayItems
      >>> records = Records(
      ...     "pair", "embedding", ArrayItems(np.eye(2)), ("a", "b"), np.array([0, -1]),
      ...     ("cat",), 1,
      ... )
      >>> half = np.array([0.9, 0.6])
      >>> found = Assignment(
      ...     ("a", "b"), np.array([0, -1]), np.array([0, 1]), ("cat", "novel-1"), 1,
      ...     probability=half, margin=half, distance=half,
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     done = export(records, found, f"{folder}/new.csv", "csv", only="novel")
      ...     print(done.path.read_text())
      id,label,assigned,is_known,probability,margin,distance,cluster
      b,,novel-1,False,0.6,0.6,0.6,1
      <BLANKLINE>
    """
    form = _format(to, records.kind)
    rows = _rows(assignment, only, at_least)
    targets.check(out, ending=form.ending, overwrite=overwrite)
    chosen = Chosen(
        records.select(rows),
        _part(assignment, rows),
        source,
        copy,
        pathlib.Path(out).absolute(),
        on_progress,
    )
    if form.ending:
        with targets.whole_file(out) as path:
            notes = form.write(chosen, path)
    else:
        about = {"format": to, "items": len(rows), "only": only, "at_least": at_least}
        with targets.whole_folder(out, about) as path:
            notes = form.write(chosen, path)
    return Exported(pathlib.Path(out), len(rows), notes)


def _find_all() -> None:
    """Imports every file of this room, as each registers its own format."""
    from eagc_jax.gcd import export as room

    for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        importlib.import_module(found.name)


def _format(name: str, kind: Kind) -> _Format:
    names = formats()
    if name not in names:
        raise ValueError(f"format (to) must be one of {', '.join(names)}; got {name!r}")
    form = _FORMATS[name]
    if kind not in form.kinds:
        others = [other for other in names if kind in _FORMATS[other].kinds]
        raise ValueError(
            f"format {name!r} holds items of kind {' or '.join(form.kinds)}, and these "
            f"are of kind {kind}; choose one of {', '.join(others)}"
        )
    return form


def _rows(assignment: Assignment, only: Only, at_least: float) -> np.ndarray:
    if only not in get_args(Only):
        raise ValueError(
            f"only must be one of {', '.join(get_args(Only))}; got {only!r}"
        )
    if not 0 <= at_least <= 1:
        raise ValueError(f"at_least must be in [0, 1], got {at_least}")
    labeled = np.asarray(assignment.labels) >= 0
    keep = labeled | (np.asarray(assignment.probability) >= at_least)
    if only != "all":
        keep &= ~labeled
    if only == "novel":
        keep &= ~assignment.is_known
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise ValueError(
            f"no item is left to export, with only = {only!r} and at_least = {at_least}; "
            f"the highest probability is {np.max(assignment.probability, initial=0):.3f}"
        )
    return rows


def _part(assignment: Assignment, rows: np.ndarray) -> Assignment:
    part = assignment.select(rows)
    return dataclasses.replace(part, ids=tuple(map(printable, part.ids)))


def class_names(chosen: Chosen) -> list[str]:
    """Of all categories, as one line each and each once."""
    names, taken = [], set()
    for name in map(shown, chosen.assignment.names):
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name} ({number})"
        taken.add(free)
        names.append(free)
    return names
