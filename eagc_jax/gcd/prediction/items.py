"""New items of any kind, some at a time: what is not read yet takes no memory."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from eagc_jax.gcd.sources import columns as columns_
from eagc_jax.gcd.sources import embeddings, images, listing, tables, texts
from eagc_jax.gcd.sources.columns import Columns
from eagc_jax.gcd.sources.records import BadItem, Items, Kind
from eagc_jax.gcd.sources.strings import Strings, shown

_TEXT = (".txt", ".text")
_ROWS = {"embedding": 2**14, "text": 2**12, "image": 2**9}  # together
_KINDS = {"image": "photos", "text": "texts", "embedding": "embeddings"}


class Chunk(NamedTuple):
    """Some items: their names for the answer, and where they are."""

    names: pa.Array  # (n,) strings
    items: Items | np.ndarray  # (n,), or (n, width) embeddings
    bad: tuple[BadItem, ...] = ()  # that are left out already


@dataclasses.dataclass(frozen=True)
class Place:
    """One thing that a person named: a folder, a file, or photos one after another."""

    kind: Kind
    path: pathlib.Path
    chunks: Callable[[], Iterator[Chunk]]


def places(
    named: Sequence[str | os.PathLike[str]], kind: Kind, columns: Columns | None = None
) -> list[Place]:
    """What items there are; nothing but the heads of tables is read.

    Items of a table are named by the column of ids or their row, from 0; lines by their
    number, from 0; photos by their path. Where several files are named, rows and lines
    have the file's name in front.

    Args:
      named: folders of photos, photos, tables (.csv, .tsv, .parquet) of texts or of
        photos' paths, texts (.txt, one a line), embeddings (.npy, .npz, .parquet).
      kind: of the discovery's items; embeddings are taken besides.
      columns: of tables.

    Returns:
      They, in order.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: something is of another kind, or can't be told.
    """
    paths = [pathlib.Path(one) for one in named]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{shown(path)} was not found; items are folders, files of photos, "
                "tables, texts or embeddings"
            )
    prefixed = sum(not _is_photo(path) for path in paths) > 1
    found = [
        _photos(list(some))
        if photos
        else [_place(path, columns or Columns(), prefixed) for path in some]
        for photos, some in itertools.groupby(paths, _is_photo)
    ]
    flat = [
        one for some in found for one in (some if isinstance(some, list) else [some])
    ]
    for one in flat:
        if one.kind not in (kind, "embedding"):
            raise ValueError(
                f"{shown(one.path)} holds {_KINDS[one.kind]}; the discovery was of "
                f"{_KINDS[kind]}"
            )
    return flat


def _is_photo(path: pathlib.Path) -> bool:
    return path.suffix.lower() in images.extensions() and not path.is_dir()


def _place(path: pathlib.Path, columns: Columns, prefixed: bool) -> Place:
    before = f"{path}:" if prefixed else ""
    end = path.suffix.lower()
    if path.is_dir():
        return Place("image", path, lambda: _folder(path))
    if end in (".npy", ".npz"):
        return Place("embedding", path, lambda: _arrays(path, columns, before))
    if tables.is_table(path):
        table = tables.Table(path)
        if embeddings.has_embeddings(table):
            return Place("embedding", path, lambda: _lists(table, columns, before))
        kind, column = columns_.item_column(table, columns)
        return Place(kind, path, lambda: _rows(table, kind, column, columns, before))
    if end in _TEXT:
        return Place("text", path, lambda: _lines(path, before))
    raise ValueError(
        f"{shown(path)} should be a folder, a photo, a table (.csv, .tsv, .parquet), a "
        "text file (.txt) or embeddings (.npy, .npz, .parquet); found a file that ends "
        f"in {end!r}"
    )


def _photos(paths: list[pathlib.Path]) -> Place:
    def chunks() -> Iterator[Chunk]:
        yield from _files("", Strings.of(map(os.fsdecode, paths)), "")

    return Place("image", paths[0], chunks)


def _folder(folder: pathlib.Path) -> Iterator[Chunk]:
    found = listing.list_images(str(folder), "")
    bad = tuple(BadItem(str(folder / one.item), one.reason) for one in found.others)
    if bad:
        yield Chunk(pa.array([], pa.string()), np.zeros((0, 0), np.float32), bad)
    for chunk in found.chunks:
        yield from _files(str(folder), Strings(chunk), f"{folder}{os.sep}")


def _files(root: str, paths: Strings, before: str) -> Iterator[Chunk]:
    for start in range(0, len(paths), _ROWS["image"]):
        some = paths[start : start + _ROWS["image"]]
        yield Chunk(_named(some, before), images.ImageFiles(root, some))


def _rows(
    table: tables.Table, kind: Kind, column: str, columns: Columns, before: str
) -> Iterator[Chunk]:
    id_column = columns.id if columns.id in table.columns else None
    wanted = [column] if id_column in (None, column) else [column, id_column]
    root, number = os.path.dirname(os.path.abspath(table.path)), 0
    for batch in table.batches(wanted):
        strings = batch[column]
        for start in range(0, len(strings), _ROWS[kind]):
            some = strings[start : start + _ROWS[kind]]
            if id_column:
                names = _named(batch[id_column][start : start + _ROWS[kind]], before)
            else:
                names = _numbers(number, number + len(some), before)
            number += len(some)
            yield Chunk(
                names,
                _Texts(some) if kind == "text" else images.ImageFiles(root, some),
            )


def _lines(path: pathlib.Path, before: str) -> Iterator[Chunk]:
    with open(path, "rb") as file:
        numbered = enumerate(file)
        while some := list(itertools.islice(numbered, _ROWS["text"])):
            kept = [(number, line.strip(b"\r\n")) for number, line in some]
            kept = [(number, line) for number, line in kept if line.strip()]
            if kept and kept[0][0] == 0:
                kept[0] = 0, kept[0][1].removeprefix(b"\xef\xbb\xbf")
            names = pa.array([f"{before}{number}" for number, _ in kept], pa.string())
            yield Chunk(names, _Texts(Strings(texts.pack(line for _, line in kept))))


def _arrays(path: pathlib.Path, columns: Columns, before: str) -> Iterator[Chunk]:
    matrix, ids = embeddings.matrix_and_ids(path, columns.id)
    for start in range(0, len(matrix), _ROWS["embedding"]):
        stop = min(start + _ROWS["embedding"], len(matrix))
        names = (
            _numbers(start, stop, before)
            if ids is None
            else _named(ids[start:stop], before)
        )
        yield Chunk(names, matrix[start:stop])


def _lists(table: tables.Table, columns: Columns, before: str) -> Iterator[Chunk]:
    """Embeddings of Parquet, batch by batch; rows of another width are bad."""
    column, number = embeddings.COLUMN, 0
    id_column = columns.id if columns.id in table.columns else None
    wanted = [column, *([id_column] if id_column else [])]
    with pyarrow.parquet.ParquetFile(table.path, memory_map=True) as file:
        width = None
        for batch in file.iter_batches(_ROWS["embedding"], columns=wanted):
            lists, stop = batch.column(column), number + len(batch)
            names = (
                _prefixed(batch.column(id_column).cast(pa.string()), before)
                if id_column
                else _numbers(number, stop, before)
            )
            matrix, good, width = embeddings.rows_of_lists(lists, width)
            told = names.to_pylist() if len(good) < len(lists) else []
            bad = tuple(
                BadItem(str(told[row]), f"should be a list of {width} numbers")
                for row in np.setdiff1d(np.arange(len(lists)), good)
            )
            yield Chunk(names.take(pa.array(good)), matrix, bad)
            number = stop


class _Texts(texts.Texts):
    """Sentences of which some may not be UTF-8."""

    def __getitem__(self, row: int) -> str:
        text = super().__getitem__(row)
        if any("\udc80" <= character <= "\udcff" for character in text):
            raise BadItem(f"row {row}", "the text is not UTF-8")
        return text


def _numbers(start: int, stop: int, before: str) -> pa.Array:
    found = pa.array(np.arange(start, stop)).cast(pa.string())
    return _prefixed(found, before)


def _named(strings: Strings, before: str) -> pa.Array:
    """As Arrow text; bytes that are none are escaped."""
    try:
        found = strings.array.cast(pa.string())
    except pa.ArrowInvalid:
        found = pa.chunked_array([pa.array(list(strings.printable()), pa.string())])
    return _prefixed(found.combine_chunks(), before)


def _prefixed(names: pa.Array, before: str) -> pa.Array:
    if not before:
        return names
    shown_ = before.encode("utf-8", "backslashreplace").decode()
    return pa.compute.binary_join_element_wise(shown_, names, "")
