"""Tables: the columns of CSV, TSV and Parquet files as text."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from eagc_jax.gcd.sources.strings import Strings, shown

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
_BLOCK = 16 << 20  # bytes; a row must fit
_BATCH = 2**14  # rows of Parquet that are read together


def suffix(path: str | os.PathLike[str]) -> str:
    """The ending that says what a table is; one of compression comes after it."""
    ends = [end.lower() for end in pathlib.Path(path).suffixes]
    if len(ends) > 1 and ends[-1] in (".gz", ".bz2", ".zst"):
        return ends[-2]
    return ends[-1] if ends else ""


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether the file's name ends like a table's."""
    return suffix(path) in (*DELIMITERS, *PARQUET)


class Table:
    """A table of which the columns are read that are asked for.

    Args:
      path: of a CSV, TSV or Parquet file; CSV and TSV may be compressed (.gz). The
        first line names the columns; a quoted field may hold line breaks.

    Raises:
      ValueError: the file is no such table, or names a column twice.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: pathlib.Path = pathlib.Path(path)
        self.is_parquet: bool = suffix(path) in PARQUET
        try:
            self.schema: pa.Schema = self._schema()
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        twice = [name for name, n in Counter(self.columns).items() if n > 1]
        if twice:
            raise ValueError(
                f"{shown(self.path)} should name each column once, found "
                f"{shown(repr(twice[0]))} more than once"
            )

    @property
    def columns(self) -> list[str]:
        """Their names, in the file's order."""
        return self.schema.names

    def missing(self, *wanted: str | None) -> ValueError:
        """The error for a table that has none of the columns it should have."""
        found = ", ".join(shown(repr(name)) for name in self.columns)
        one = " or ".join(repr(name) for name in wanted if name)
        hint = "Rename the column that is meant, or say its name"
        if len(self.columns) == 1 and any(c in self.columns[0] for c in ";\t|"):
            hint = "Its columns should be divided by commas (or tabs, as .tsv)"
        return ValueError(
            f"{shown(self.path)} should have a column {one}, found {found}. {hint}"
        )

    def read(self, columns: Sequence[str]) -> dict[str, Strings]:
        """Columns as text, "" where a value is missing; nothing else is kept.

        Raises:
          ValueError: the file is damaged, or a text is not UTF-8; names the row.
        """
        try:
            table = self._parquet(columns) if self.is_parquet else self._csv(columns)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        return {name: Strings(self._text(name, table[name])) for name in columns}

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, Strings]]:
        """The same some rows at a time, so that the table may be larger than memory.

        In a CSV file, what is not UTF-8 is left to whoever reads the text.

        Raises:
          ValueError: the file is damaged.
        """
        try:
            for batch in self._batches(columns):
                yield {
                    name: Strings(
                        self._text(name, table)
                        if self.is_parquet
                        else pc.fill_null(table, b"")
                    )
                    for name, table in batch.items()
                }
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _batches(self, columns: Sequence[str]) -> Iterator[dict[str, pa.ChunkedArray]]:
        names = list(columns)
        if self.is_parquet:
            with pyarrow.parquet.ParquetFile(self.path, memory_map=True) as file:
                for batch in file.iter_batches(_BATCH, columns=names):
                    yield {x: pa.chunked_array([batch.column(x)]) for x in names}
            return
        with pyarrow.csv.open_csv(
            self.path, *self._options(), self._as_bytes(columns)
        ) as reader:
            for batch in reader:
                yield {x: pa.chunked_array([batch.column(x)]) for x in names}

    def _schema(self) -> pa.Schema:
        if self.is_parquet:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                return file.schema_arrow
        with open(self.path, "rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(
                    f"{shown(self.path)} should be UTF-8 text, found UTF-16. Save it as "
                    "UTF-8"
                )
        with pyarrow.csv.open_csv(self.path, *self._options()) as reader:
            return reader.schema

    def _options(
        self,
    ) -> tuple[pyarrow.csv.ReadOptions, pyarrow.csv.ParseOptions]:
        # Without threads a message about a row has its number.
        reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK)
        parsing = pyarrow.csv.ParseOptions(
            delimiter=DELIMITERS.get(suffix(self.path), ","), newlines_in_values=True
        )
        return reading, parsing

    def _csv(self, columns: Sequence[str]) -> pa.Table:
        return pyarrow.csv.read_csv(
            self.path, *self._options(), self._as_bytes(columns)
        )

    def _as_bytes(self, columns: Sequence[str]) -> pyarrow.csv.ConvertOptions:
        # So that a text that is not UTF-8 can be found, row by row.
        types = {name: pa.large_binary() for name in columns}
        return pyarrow.csv.ConvertOptions(
            include_columns=list(columns), column_types=types
        )

    def _parquet(self, columns: Sequence[str]) -> pa.Table:
        return pyarrow.parquet.read_table(
            self.path, columns=list(columns), memory_map=True
        )

    def _text(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_floating(kind):  # how pandas writes integers with gaps
            column = pc.if_else(pc.is_nan(column), None, column)
        try:
            text = pc.fill_null(column.cast(pa.large_string()), "")
        except pa.ArrowNotImplementedError as error:
            raise ValueError(
                f"column {name!r} of {shown(self.path)} should hold text or numbers, "
                f"found {kind}"
            ) from error
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{shown(self.path)} should be UTF-8 text; column {name!r} of row "
                f"{_first_undecodable(column)} (from 0) is not. Save it as UTF-8"
            ) from error
        return text.cast(pa.large_binary())

    def _unreadable(self, error: Exception) -> ValueError | OSError:
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"{shown(self.path)} was not found")
        what = "Parquet file" if self.is_parquet else "table"
        return ValueError(
            f"{shown(self.path)} can't be read as a {what}: {shown(error)}"
        )


def _first_undecodable(column: pa.ChunkedArray) -> int:
    for row, value in enumerate(column):
        try:
            (value.as_py() or b"").decode("utf-8")
        except UnicodeDecodeError:
            return row
    return len(column)  # not reached: Arrow found one


def trimmed(strings: Strings) -> pa.ChunkedArray:
    """Without white space at the ends, as Arrow text."""
    return pc.utf8_trim_whitespace(strings.array.cast(pa.large_string()))


def encode(strings: Strings) -> tuple[tuple[str, ...], np.ndarray]:
    """The different texts, sorted, and each row's index into them, -1 where empty."""
    encoded = pc.dictionary_encode(trimmed(strings)).unify_dictionaries()
    chunks = encoded.chunks or [pa.array([], pa.large_string()).dictionary_encode()]
    values = chunks[0].dictionary.to_pylist()
    names = sorted(set(values) - {""})
    numbers = {"": -1} | {name: number for number, name in enumerate(names)}
    lookup = np.array([numbers[value] for value in values], np.int32)
    found = [lookup[chunk.indices.to_numpy()] for chunk in chunks if len(chunk)]
    return tuple(names), np.concatenate([np.empty(0, np.int32), *found])
