"""Answers as CSV, JSON lines or Parquet, batch by batch."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from eagc_jax.gcd.prediction.predictor import COLUMNS
from eagc_jax.gcd.sources.strings import shown

Write = Callable[[pa.RecordBatch], object]
Writer = tuple[Write, Callable[[], object]]

Format = Literal["csv", "jsonl", "parquet"]

_DIGITS = 6  # after the point; more say nothing


def format_of(path: str | os.PathLike[str] | None) -> Format:
    """What to write, by the file's ending: csv, jsonl or parquet; csv for no file.

    Raises:
      ValueError: another ending.

    Examples:
      >>> format_of("found.JSONL")
      'jsonl'
    """
    if path is None:
        return "csv"
    end = pathlib.Path(path).suffix.lower().lstrip(".")
    if end not in _WRITERS:
        raise ValueError(
            f"answers are written to a file that ends in .csv, .jsonl or .parquet; got "
            f"{shown(path)}"
        )
    return end


def writer(kind: Format, file: IO[bytes]) -> Writer:
    """What writes a batch, and what is to be called at the end.

    Args:
      kind: of `format_of`.
      file: open for bytes.

    Returns:
      Both; batches are those of `Prediction.batch`.
    """
    return _WRITERS[kind](file)


def _csv(file: IO[bytes]) -> Writer:
    file.write((",".join(COLUMNS) + "\n").encode())

    def write(batch: pa.RecordBatch) -> None:
        cells = [_csv_cells(column) for column in batch.columns]
        lines = pc.binary_join_element_wise(*cells, pa.scalar(",", pa.large_string()))
        file.write(_joined(lines))

    return write, lambda: None


def _jsonl(file: IO[bytes]) -> Writer:
    def write(batch: pa.RecordBatch) -> None:
        parts: list[pa.Scalar | pa.Array] = []
        for number, (name, column) in enumerate(
            zip(COLUMNS, batch.columns, strict=True)
        ):
            before = f'{", " if number else "{"}"{name}": '
            parts += [pa.scalar(before, pa.large_string()), _json_values(column)]
        end = pa.scalar("}", pa.large_string())
        nothing = pa.scalar("", pa.large_string())
        file.write(_joined(pc.binary_join_element_wise(*parts, end, nothing)))

    return write, lambda: None


def _parquet(file: IO[bytes]) -> Writer:
    schema = pa.schema(
        [
            ("item", pa.string()),
            ("cluster", pa.int32()),
            ("name", pa.string()),
            ("probability", pa.float32()),
            ("known_or_novel", pa.string()),
            ("unlike_anything_seen", pa.bool_()),
            ("nearest_labeled", pa.string()),
            ("similarity", pa.float32()),
        ]
    )
    made = pyarrow.parquet.ParquetWriter(file, schema)
    return lambda batch: made.write_batch(batch.cast(schema)), made.close


_WRITERS: dict[Format, Callable[[IO[bytes]], Writer]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _joined(lines: pa.Array) -> memoryview | bytes:
    """The bytes of N strings, each with an end of line: Arrow has them in one piece."""
    if not len(lines):
        return b""
    end = pa.scalar("", pa.large_string())
    ended = pc.binary_join_element_wise(lines, end, pa.scalar("\n", pa.large_string()))
    _, offsets, content = ended.buffers()
    at = np.frombuffer(offsets, np.int64)[ended.offset : ended.offset + len(ended) + 1]
    return memoryview(content)[at[0] : at[-1]]


def _csv_cells(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(
        column.type
    ):
        return _numbers(column, ("True", "False"))
    text = column.cast(pa.large_string())
    special = pc.match_substring_regex(text, '[",\r\n]')
    if not pc.any(special).as_py():
        return text
    doubled = pc.replace_substring(text, '"', '""')
    mark = pa.scalar('"', pa.large_string())
    quoted = pc.binary_join_element_wise(
        mark, doubled, mark, pa.scalar("", pa.large_string())
    )
    return pc.if_else(special, quoted, text)


def _json_values(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(
        column.type
    ):
        return _numbers(column, ("true", "false"))
    encoded = column.dictionary_encode()
    texts = [json.dumps(x, ensure_ascii=False) for x in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.large_string()).take(encoded.indices)


def _numbers(column: pa.Array, booleans: tuple[str, str]) -> pa.Array:
    if pa.types.is_boolean(column.type):
        yes, no = (pa.scalar(x, pa.large_string()) for x in booleans)
        return pc.if_else(column, yes, no)
    if pa.types.is_floating(column.type):
        column = pa.array(np.round(column.to_numpy().astype(np.float64), _DIGITS))
    return column.cast(pa.large_string())
