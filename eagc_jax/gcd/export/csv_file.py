"""Export to CSV."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pyarrow as pa

from eagc_jax.gcd.export.registry import Chosen, register
from eagc_jax.gcd.export.tables import table_of
from eagc_jax.gcd.runs.assignment import csv_lines

_ROWS = 2**14  # that are Python objects at a time


@register("csv", kinds=("text", "image", "embedding"), ending=".csv")
def csv(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """One row an item: as a run's assignment.csv, then the columns of its own table.

    UTF-8, divided by commas, a header line; quoted as RFC 4180 has it, with a line feed
    at the end of a row. A cell is empty where a value is missing. Columns of lists are
    left out.

    References:
      https://www.rfc-editor.org/rfc/rfc4180
    """
    table = table_of(chosen)
    lists = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    table = table.drop_columns(lists)
    with open(path, "w", encoding="utf-8", newline="") as file:
        for line in csv_lines(table.column_names, _rows(table)):
            file.write(line)
    if not lists:
        return ()
    return (f"left out, because CSV holds no lists: {', '.join(lists)}",)


def _rows(table: pa.Table) -> Iterator[list[object]]:
    for part in table.to_batches(_ROWS):
        columns = [_cells(column) for column in part.columns]
        yield from map(list, zip(*columns, strict=True))


def _cells(column: pa.Array) -> list[object]:
    if pa.types.is_float32(column.type):  # six digits: more say nothing
        return ["" if x is None else f"{x:.6g}" for x in column.to_pylist()]
    return ["" if x is None else x for x in column.to_pylist()]
