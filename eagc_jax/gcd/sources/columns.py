"""What a table's columns say of its rows: ids, labels, truth, split; and the items."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.sources import images, tables
from eagc_jax.gcd.sources.records import BadItem, Items, Kind, OnBadItem, Records
from eagc_jax.gcd.sources.strings import RowNumbers, Strings, shown
from eagc_jax.gcd.sources.tables import Table
from eagc_jax.gcd.sources.texts import Texts, empty_rows


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None: not looked for."""

    text: str | None = "text"
    path: str | None = "path"
    label: str | None = "label"
    id: str | None = "id"
    split: str | None = "split"
    truth: str | None = None


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of N rows, however they came."""

    ids: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    num_known: int
    truth: np.ndarray | None
    parts: np.ndarray | None


def open_table(
    path: str | os.PathLike[str],
    columns: Columns,
    *,
    on_bad_item: OnBadItem = "raise",
    require_labels: bool = True,
    max_pixels: int = images.MAX_PIXELS,
) -> Records:
    """A CSV, TSV or Parquet file with a column of texts or of images' paths.

    Args:
      path: of the table; paths in it are relative to the folder that it lies in.
      columns: their names. An empty label means unlabeled.
      on_bad_item: "raise" refuses an empty text or path; "skip" leaves it to whoever
        reads the item, who gets a `BadItem`.
      require_labels: False also opens a table without labels, or with nothing else.
      max_pixels: see `images.decode`.

    Returns:
      A record for each row, in the table's order; ids are row numbers from 0 if there
      is no column for them.

    Raises:
      ValueError: a column is missing, or what is in one is wrong; names the row.
    """
    table = Table(path)
    kind, column = item_column(table, columns)
    wanted = known_columns(table, columns, require_labels)
    texts = table.read(list(dict.fromkeys([column, *wanted])))
    if not len(texts[column]):
        raise ValueError(f"{shown(path)} should hold a row for each item, found none")
    known = known_of(str(path), texts, columns, len(texts[column]), require_labels)
    if on_bad_item == "raise":
        _check_items(path, kind, column, texts[column])
    folder = os.path.dirname(os.path.abspath(path))
    items: Items
    if kind == "text":
        items = Texts(texts[column])
    else:
        items = images.ImageFiles(folder, texts[column], max_pixels)
    return records_of(path, kind, items, known)


def records_of(
    path: str | os.PathLike[str], kind: Kind, items: Items, known: Known
) -> Records:
    """Records named after a file."""
    name = os.path.basename(path).split(".")[0]
    return Records(
        name,
        kind,
        items,
        known.ids,
        known.labels,
        known.class_names,
        known.num_known,
        known.truth,
        known.parts,
    )


def known_columns(table: Table, columns: Columns, require_labels: bool) -> list[str]:
    """Which of the columns for labels, ids, split and truth are to be read.

    Raises:
      ValueError: labels are required and not there, or a column of another name than
        the usual one is not there.
    """
    there = set(table.columns)
    if require_labels and columns.label not in there:
        raise table.missing(columns.label)
    wanted = []
    for field in ("label", "id", "split", "truth"):
        name = getattr(columns, field)
        if name in there:
            wanted.append(name)
        elif name != getattr(Columns(), field) and name is not None:
            raise table.missing(name)  # whoever named it, meant it
    return wanted


def known_of(
    place: str,
    texts: dict[str, Strings],
    columns: Columns,
    rows: int,
    require_labels: bool,
) -> Known:
    """From the texts of the columns that are there.

    Raises:
      ValueError: no row has a label, or each has one, or there is one class; an id is
        empty or there twice; a true class is empty.
    """
    names, labels = (), np.full(rows, -1, np.int32)
    if columns.label in texts:
        names, labels = tables.encode(texts[columns.label])
    if require_labels:
        check_labels(place, names, labels)
    class_names, truth = names, None
    if columns.truth is not None:
        class_names, truth = _truth(place, columns.truth, texts[columns.truth], names)
    elif len(names) and labels.min() >= 0:
        truth = labels
    ids: Sequence[str] = RowNumbers(rows)
    if columns.id in texts:
        ids = check_ids(place, columns.id, texts[columns.id])
    parts = np.array(list(texts[columns.split])) if columns.split in texts else None
    return Known(ids, labels, class_names, len(names), truth, parts)


def check_labels(place: str, names: Sequence[str], labels: np.ndarray) -> None:
    """Some rows are labeled, some aren't, and there are two classes or more."""
    if not (labels >= 0).any():
        raise ValueError(
            f"{shown(place)} should have labels for some rows, found none. Give a table "
            "(CSV, TSV or Parquet) with a column `label` that is empty where a row is "
            "unlabeled"
        )
    if (labels >= 0).all():
        raise ValueError(
            f"{shown(place)} should leave the label of some rows empty, to discover "
            f"categories among them; all {len(labels)} rows have one"
        )
    if len(names) < 2:
        raise ValueError(
            f"{shown(place)} should have at least two known classes, found only "
            f"{shown(names[0])}"
        )


def check_ids(place: str, column: str, ids: Strings) -> Strings:
    """Each there, and once."""
    empty = empty_rows(ids)
    if len(empty):
        raise ValueError(
            f"{shown(place)} should have an id in each row of column {column!r}, row "
            f"{empty[0]} (from 0) has none"
        )
    twice = ids.duplicate()
    if twice is not None:
        raise ValueError(
            f"{shown(place)} should have each id once in column {column!r}; rows "
            f"{twice[0]} and {twice[1]} (from 0) both have {shown(repr(ids[twice[0]]))}"
        )
    return ids


def _truth(
    place: str, column: str, texts: Strings, known: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Known classes, then novel ones in order; each row's true class among them."""
    found, codes = tables.encode(texts)
    if len(codes) and codes.min() < 0:
        raise ValueError(
            f"{shown(place)} should have the true class of each row in column "
            f"{column!r}, row {int(np.argmin(codes))} (from 0) has none"
        )
    names = (*known, *sorted(set(found) - set(known)))
    numbers = {name: number for number, name in enumerate(names)}
    lookup = np.array([numbers[name] for name in found], np.int32)
    return names, lookup[codes]


def item_column(table: Table, columns: Columns) -> tuple[Kind, str]:
    """Of what kind a table's items are, and which column holds them or their paths.

    Raises:
      ValueError: there is no such column, or there are two.
    """
    usual, there = Columns(), set(table.columns)
    if columns.text not in {usual.text, None, *there}:
        raise table.missing(columns.text)
    if columns.path not in {usual.path, None, *there}:
        raise table.missing(columns.path)
    text = columns.text if columns.text in there else None
    path = columns.path if columns.path in there else None
    if text is not None and path is not None:
        raise ValueError(
            f"{shown(table.path)} should have a column of texts or one of paths, found "
            f"both {text!r} and {path!r}; set text_column or path_column to None"
        )
    if text is not None:
        return "text", text
    if path is not None:
        return "image", path
    raise table.missing(columns.text, columns.path)


def _check_items(
    path: str | os.PathLike[str], kind: Kind, column: str, texts: Strings
) -> None:
    empty = empty_rows(texts)
    if len(empty):
        raise BadItem(
            f"row {empty[0]} of {path}",
            f"column {column!r} is empty, in {len(empty)} of {len(texts)} rows; fill it "
            'in, or go on with on_bad_item="skip"',
        )
    first = os.path.join(os.path.dirname(os.path.abspath(path)), texts[0])
    if kind == "image" and not os.path.exists(first):
        raise BadItem(
            f"row 0 of {path}",
            f"there is no file {first}; paths are relative to the table's folder",
        )
