"""Features as files that other programs read, and `sources.open_source` too."""

from __future__ import annotations

import os
import pathlib
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from eagc_jax import _files
from eagc_jax.gcd.runs.assignment import printable
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.sources.embeddings import COLUMN
from eagc_jax.gcd.sources.strings import shown

_ENDINGS = (".npy", ".npz", ".parquet")
_ROWS = 2**16  # of Parquet at once


def check(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Whether features may be written there.

    Raises:
      ValueError: another ending than .npy, .npz or .parquet.
      FileExistsError: something is there, and may not be overwritten.
    """
    for file in (pathlib.Path(path), _labels_beside(pathlib.Path(path))):
        if file.exists() and not overwrite:
            raise FileExistsError(
                f"{shown(file)} is there already; choose another name, or overwrite it "
                "with --overwrite"
            )
    if pathlib.Path(path).suffix not in _ENDINGS:
        raise ValueError(
            f"features are written to a file that ends in {', '.join(_ENDINGS)}; got "
            f"{shown(path)}"
        )


def write(
    path: str | os.PathLike[str], records: Records, features: np.ndarray
) -> list[pathlib.Path]:
    """Writes features with their ids and labels; each file whole or not at all.

    Args:
      path: ends in .npz (members embeddings, ids, labels), .parquet (columns id, label,
        embedding) or .npy (the matrix; labels, if some are given, in NAME.labels.npy).
      records: N items.
      features: (N, width) float32.

    Returns:
      The files written.
    """
    path = pathlib.Path(path)
    labels = _labels(records)
    if path.suffix == ".parquet":
        _files.write_with(path, lambda file: _parquet(file, records, labels, features))
        return [path]
    given = np.array(labels) if any(labels) else None
    if path.suffix == ".npz":
        ids = np.array([printable(one) for one in records.ids])
        _files.write_with(path, lambda file: _npz(file, ids, given, features))
        return [path]
    _files.write_with(path, lambda file: np.save(file, features))
    if given is None:
        return [path]
    beside = _labels_beside(path)
    _files.write_with(beside, lambda file: np.save(file, given))
    return [path, beside]


def _labels_beside(path: pathlib.Path) -> pathlib.Path:
    """Where labels of a .npy go; the file itself, of another kind."""
    return path if path.suffix != ".npy" else path.with_name(f"{path.stem}.labels.npy")


def _labels(records: Records) -> list[str]:
    names = records.class_names
    return [names[one] if one >= 0 else "" for one in records.labels.tolist()]


def _npz(
    file: BinaryIO, ids: np.ndarray, labels: np.ndarray | None, features: np.ndarray
) -> None:
    if labels is None:
        np.savez(file, embeddings=features, ids=ids)
    else:
        np.savez(file, embeddings=features, ids=ids, labels=labels)


def _parquet(
    file: BinaryIO, records: Records, labels: list[str], features: np.ndarray
) -> None:
    kind = pa.list_(pa.float32(), features.shape[1])
    fields = [("id", pa.string()), ("label", pa.string()), (COLUMN, kind)]
    with pyarrow.parquet.ParquetWriter(file, pa.schema(fields)) as writer:
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            flat = pa.array(np.ascontiguousarray(features[rows]).reshape(-1))
            columns = [
                pa.array([printable(one) for one in records.ids[rows]], pa.string()),
                pa.array([one or None for one in labels[rows]], pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, type=kind),
            ]
            writer.write_batch(pa.record_batch(columns, schema=pa.schema(fields)))
