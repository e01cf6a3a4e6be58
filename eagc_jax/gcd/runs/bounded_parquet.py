"""Parquet files of anyone, read within bounds: few bytes can mean very much."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

_CODECS = {"UNCOMPRESSED", "SNAPPY"}  # by at most some 20 times, unlike the others


def read_table(
    path: pathlib.Path, kinds: Mapping[str, pa.DataType], *, most: int
) -> pa.Table:
    """Some columns of a table, each of a given type.

    A few bytes of a Parquet file can stand for many rows, and for long texts in each of
    them. So a row must have at least a byte of the file, as it has where its id is its
    own; and texts stay in the file's dictionaries until it is known how long all of them
    are together.

    Args:
      path: of the file.
      kinds: by the columns' names; of text, numbers or truth values.
      most: bytes that the columns may take.

    Returns:
      The table.

    Raises:
      ValueError: a column is missing or of another type, or all of it would be too large.
      pyarrow.ArrowException, OSError: it is no Parquet file, or damaged.
    """
    texts = [name for name, kind in kinds.items() if pa.types.is_string(kind)]
    size = path.stat().st_size
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
        _check_schema(file, kinds)
        _check_size(file, size, most)
        table = file.read(list(kinds))
    _check_texts(table, texts, most)
    columns = [table[name].cast(kind) for name, kind in kinds.items()]
    return pa.table(columns, list(kinds)).replace_schema_metadata(table.schema.metadata)


def _check_schema(
    file: pyarrow.parquet.ParquetFile, kinds: Mapping[str, pa.DataType]
) -> None:
    found = {field.name: field.type for field in file.schema_arrow}
    for name, kind in kinds.items():
        one = found.get(name)
        if one is None:
            raise ValueError(f"column {name} is missing")
        if pa.types.is_dictionary(one) and pa.types.is_string(kind):
            one = one.value_type
        if one != kind:
            raise ValueError(f"column {name} should be {kind}, found {one}")


def _check_size(file: pyarrow.parquet.ParquetFile, size: int, most: int) -> None:
    parts = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    rows = sum(part.num_rows for part in parts)
    if rows > size:
        raise ValueError(f"should hold a byte for every row, says {rows:,} rows")
    held = sum(part.total_byte_size for part in parts)
    if held > most:
        raise ValueError(f"should hold at most {most:,} bytes, says {held:,}")
    for part in parts:
        for column in range(part.num_columns):
            codec = part.column(column).compression
            if codec not in _CODECS:
                raise ValueError(
                    f"should be compressed by one of {', '.join(sorted(_CODECS))}, found "
                    f"{codec}"
                )


def _check_texts(table: pa.Table, names: list[str], most: int) -> None:
    total = 0
    for name in names:
        for chunk in table[name].chunks:
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > most:
        raise ValueError(f"should hold at most {most:,} bytes of text, found {total:,}")
