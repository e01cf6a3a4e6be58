"""The assignment as a table, beside the columns of the table that the items came from."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from eagc_jax.gcd.export.registry import Chosen
from eagc_jax.gcd.runs.assignment import COLUMNS, printable
from eagc_jax.gcd.settings.choices import SourceSettings
from eagc_jax.gcd.sources import tables
from eagc_jax.gcd.sources.strings import shown

_MARK = b"eagc_jax"  # entry of Parquet's metadata, as in a run's assignment.parquet


def table_of(chosen: Chosen) -> pa.Table:
    """Columns of the assignment, then those of the items' own table.

    What the assignment says anyway, the id and the label, is not there twice; another
    column whose name the assignment has too is called `original_NAME`.

    Raises:
      ValueError: the items' table has changed since.
    """
    own = _assignment(chosen)
    source = chosen.source
    if source is None or not _is_table(source):
        return own
    original = _original(chosen, source)
    for name in map(str, original.column_names):
        if name in (source.id_column, source.label_column) and name in COLUMNS:
            continue
        own = own.append_column(_free(own, name), original[name])
    return own


def _assignment(chosen: Chosen) -> pa.Table:
    found = chosen.assignment
    names = pa.array([printable(one) for one in found.names], pa.string())
    float_columns = (found.probability, found.margin, found.distance)
    columns = [
        pa.array(found.ids, pa.string()),
        names.take(pa.array(found.labels, pa.int32(), mask=found.labels < 0)),
        names.take(pa.array(found.clusters, pa.int32())),
        pa.array(found.is_known),
        *(pa.array(np.asarray(x, np.float32)) for x in float_columns),
        pa.array(found.clusters, pa.int32()),
    ]
    entry = json.dumps({"names": found.names, "num_known": found.num_known})
    return pa.table(
        dict(zip(COLUMNS, columns, strict=True)), metadata={_MARK: entry.encode()}
    )


def _is_table(source: SourceSettings) -> bool:
    path = pathlib.Path(source.data or "")
    return tables.is_table(path) and path.is_file()


def _original(chosen: Chosen, source: SourceSettings) -> pa.Table:
    table = tables.Table(source.data or "")
    if table.is_parquet:
        found = pyarrow.parquet.read_table(table.path, memory_map=True)
    else:
        columns = table.read(table.columns).items()
        # As text again; it was read as bytes, and checked.
        found = pa.table({n: c.array.cast(pa.large_string()) for n, c in columns})
    if source.id_column in table.columns:
        ids = table.read([source.id_column])[source.id_column]
        row_of = {printable(one): row for row, one in enumerate(ids)}
        rows = [row_of.get(one, -1) for one in chosen.assignment.ids]
    else:
        rows = [int(one) for one in chosen.assignment.ids]
    _check(table.path, rows, len(found), chosen.assignment.ids)
    return found.take(pa.array(rows, pa.int64()))


def _check(
    path: pathlib.Path, rows: Sequence[int], number: int, ids: Sequence[str]
) -> None:
    for row, name in zip(rows, ids, strict=True):
        if not 0 <= row < number:
            raise ValueError(
                f"{shown(path)} has no item {shown(name)} any more: bring back the table "
                "that was discovered, or discover anew"
            )


def _free(table: pa.Table, name: str) -> str:
    while name in table.column_names:
        name = f"original_{name}"
    return name
