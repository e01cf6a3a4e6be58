"""Opens data of any kind, which it recognises by what the path holds."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from eagc_jax.gcd.sources import columns as columns_
from eagc_jax.gcd.sources import embeddings, folders, images, registry, tables, texts
from eagc_jax.gcd.sources.columns import Columns
from eagc_jax.gcd.sources.records import OnBadItem, Records, check_on_bad_item
from eagc_jax.gcd.sources.strings import shown

_TEXT = (".txt", ".text")


def open_source(
    data: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    text_column: str | None = "text",
    path_column: str | None = "path",
    label_column: str | None = "label",
    id_column: str | None = "id",
    split_column: str | None = "split",
    truth_column: str | None = None,
    on_bad_item: OnBadItem = "raise",
    require_labels: bool = True,
    max_pixels: int = images.MAX_PIXELS,
) -> Records:
    r"""The records of a folder, a table, a text file, embeddings or a named benchmark.

    ===================== ========================================================
    data                  what it is
    ===================== ========================================================
    a folder              photos: `labeled/<class>/` and `unlabeled/`, or class
                          folders beside `unlabeled` (see `folders.open_folder`)
    .csv, .tsv, .parquet  a column of texts or of images' paths, and labels
                          (see `columns.open_table`)
    .txt                  a text on each line, none of them labeled
    .npy, .npz, .parquet  embeddings (see `embeddings.open_embeddings`)
    a name, or name:ROOT  a benchmark (see `registry.load`)
    ===================== ========================================================

    Nothing is decoded and no pixel is read; texts, and the embeddings of Parquet, are
    read once. A class is known if an item has its label.

    Args:
      data: a path, or a benchmark's name. A name goes before a path of the same name;
        write `./digits` for the folder.
      root: of a named benchmark; the same as after the colon.
      text_column: of tables; None if there is none. Likewise the next ones.
      path_column: relative to the table's folder, or absolute.
      label_column: empty where a row is unlabeled.
      id_column: unique; row numbers from 0 if there is no such column.
      split_column: becomes the records' `parts`; not needed.
      truth_column: the true class of every row. It is used for scoring only.
      on_bad_item: "raise", or "skip" to leave out files that are no images, and to
        leave empty texts and embeddings with NaN to whoever reads the item.
      require_labels: False opens data without labels, to be embedded only, and fully
        labeled data, to be posed as a benchmark (`posing.pose_half`).
      max_pixels: an image with more is not decoded.

    Returns:
      The records, in the data's order.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: the data is not laid out as it should be; the message names the file
        or row, what was found, and what to do.
      BadItem: an item is bad and on_bad_item is "raise".

    Examples:
      >>> import pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> table = folder / "tickets.csv"
      >>> _ = table.write_text(
      ...     "text,label\nmy card is lost,card\nwhere is my money,transfer\nhello,\n"
      ... )
      >>> records = open_source(table)
      >>> records.class_names, records.labels.tolist(), records.items[2]
      (('card', 'transfer'), [0, 1, -1], 'hello')
    """
    check_on_bad_item(on_bad_item)
    name, place = _benchmark(data, root)
    if name is not None:
        return registry.load(name, place)
    columns = Columns(
        text_column, path_column, label_column, id_column, split_column, truth_column
    )
    path = _existing(data)
    if path.is_dir():
        return folders.open_folder(
            path,
            require_labels=require_labels,
            on_bad_item=on_bad_item,
            max_pixels=max_pixels,
        )
    if path.suffix.lower() in (".npy", ".npz") or _is_parquet_of_embeddings(path):
        return embeddings.open_embeddings(
            path, columns, on_bad_item=on_bad_item, require_labels=require_labels
        )
    if tables.is_table(path):
        return columns_.open_table(
            path,
            columns,
            require_labels=require_labels,
            on_bad_item=on_bad_item,
            max_pixels=max_pixels,
        )
    if path.suffix.lower() in _TEXT:
        return open_text(path, require_labels=require_labels)
    raise ValueError(
        f"{shown(path)} should be a folder, a table (.csv, .tsv, .parquet), a text file "
        f"(.txt), or embeddings (.npy, .npz, .parquet); found a file that ends in "
        f"{path.suffix!r}"
    )


def open_text(path: str | os.PathLike[str], *, require_labels: bool = True) -> Records:
    """A UTF-8 file with a text on each line; ids are line numbers from 0.

    Args:
      path: of the file. Blank lines are no items, but count as lines.
      require_labels: must be False, because lines have no labels.

    Returns:
      Records without any known class.

    Raises:
      ValueError: labels are required, a line is not UTF-8, or there are no lines.
    """
    lines, ids = texts.read_lines(path)
    labels = np.full(len(lines), -1, np.int32)
    if require_labels:
        columns_.check_labels(str(path), (), labels)
    name = os.path.basename(path).split(".")[0]
    return Records(name, "text", texts.Texts(lines), ids, labels, (), 0)


def _benchmark(
    data: str | os.PathLike[str], root: str | os.PathLike[str] | None
) -> tuple[str | None, str | os.PathLike[str] | None]:
    """A benchmark's name and root; None for data that is a path."""
    name, colon, after = os.fspath(data).partition(":")
    if name not in registry.benchmarks():
        if root is not None:
            names = ", ".join(registry.benchmarks())
            raise ValueError(
                f"root is for a named benchmark, one of {names}; got data = "
                f"{shown(data)!r}"
            )
        return None, None
    return name, (after if colon else root)


def _existing(data: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(data)
    if not path.exists():
        raise FileNotFoundError(
            f"{shown(path)} was not found. It should be a file or a folder, or the name "
            f"of a benchmark: {', '.join(registry.benchmarks())}"
        )
    return path


def _is_parquet_of_embeddings(path: pathlib.Path) -> bool:
    if tables.suffix(path) not in tables.PARQUET:
        return False
    return embeddings.has_embeddings(tables.Table(path))
