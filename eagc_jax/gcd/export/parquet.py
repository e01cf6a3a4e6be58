"""Export to Parquet."""

from __future__ import annotations

import pathlib

import pyarrow.parquet

from eagc_jax.gcd.export.registry import Chosen, register
from eagc_jax.gcd.export.tables import table_of


@register("parquet", kinds=("text", "image", "embedding"), ending=".parquet")
def parquet(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """One row an item: as a run's assignment.parquet, then the columns of its own table.

    Columns of a Parquet table keep their types, those of a CSV are text. The schema's
    metadata has an entry `eagc_jax` with the names of all categories.

    References:
      https://parquet.apache.org/docs/file-format/
    """
    pyarrow.parquet.write_table(table_of(chosen), path)
    return ()
