"""Embeddings that were computed elsewhere: .npy, .npz, or a column of Parquet."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from eagc_jax.gcd.sources import columns as columns_
from eagc_jax.gcd.sources.columns import Columns
from eagc_jax.gcd.sources.records import ArrayItems, BadItem, OnBadItem, Records
from eagc_jax.gcd.sources.strings import Strings, shown
from eagc_jax.gcd.sources.tables import Table

COLUMN = "embedding"  # of Parquet files
_MEMBERS = ("embeddings", "embedding", "features", "feature", "x")  # of npz files
_BLOCK = 64 << 20  # bytes checked at a time
_ROWS = 65_536  # of Parquet, read at a time


class Embeddings(ArrayItems):
    """Items that are the rows of a matrix, as float32; a row that is not finite is bad.

    Args:
      array: (N, D) numbers, in memory or memory-mapped.
      place: for messages.
    """

    def __init__(self, array: np.ndarray, place: str):
        super().__init__(array)
        self.place = place

    def __getitem__(self, row: int) -> np.ndarray:
        """(D,) float32."""
        found = np.asarray(self.array[row], np.float32)
        if not np.isfinite(found).all():
            raise _not_finite(self.place, row)
        return found


def open_embeddings(
    path: str | os.PathLike[str],
    columns: Columns,
    *,
    on_bad_item: OnBadItem = "raise",
    require_labels: bool = True,
) -> Records:
    """A matrix with one row an item, and labels from beside it.

    - `NAME.npy` is memory-mapped. Its labels are in `NAME.labels.npy`, `labels.npy`
      (text, "" for none; or integers, -1 for none), `NAME.labels.csv` or `labels.csv`
      (columns as of any table), the first of these that lies in the same folder.
    - `.npz` has a member `embeddings` (or `features`, or just one matrix), which is
      memory-mapped if the file isn't compressed (`numpy.savez`), and members `labels`,
      `ids`, `split` and `truth` in the same form, singular or plural.
    - Parquet has a column `embedding` of lists of one length, and the columns that any
      table has. It is read once, into float32.

    Args:
      path: of the file.
      columns: names of the table's columns and of the npz file's members.
      on_bad_item: "raise" refuses NaN and infinity when the file is opened; "skip"
        leaves them to whoever reads the row, who gets a `BadItem`.
      require_labels: False also opens embeddings without labels, or with nothing else.

    Returns:
      Records whose items are the rows.

    Raises:
      ValueError: rows have two widths, labels are missing or are not one for each row.
      BadItem: a row holds NaN or infinity and on_bad_item is "raise".
    """
    place = pathlib.Path(path)
    if place.suffix.lower() == ".npy":
        matrix, texts = _from_npy(place, columns)
    elif place.suffix.lower() == ".npz":
        matrix, texts = _from_npz(place, columns)
    else:
        matrix, texts = _from_parquet(place, columns, require_labels)
    for name, values in texts.items():
        if len(values) != len(matrix):
            raise ValueError(
                f"{shown(place)} has {len(matrix)} embeddings and {len(values)} values "
                f"of {name!r}; there must be one for each"
            )
    known = columns_.known_of(str(path), texts, columns, len(matrix), require_labels)
    if on_bad_item == "raise":
        check_finite(matrix, str(place))
    return columns_.records_of(path, "embedding", Embeddings(matrix, str(place)), known)


def matrix_and_ids(
    path: str | os.PathLike[str], id_column: str | None = "id"
) -> tuple[np.ndarray, Strings | None]:
    """The rows of a .npy or .npz file, memory-mapped where they can be; and their ids.

    Args:
      path: of the file.
      id_column: the member of a .npz file that has them.

    Returns:
      (N, D) numbers as they are stored, and N ids or None.

    Raises:
      ValueError: the file holds no matrix, or ids that are not one for each row.
    """
    place = pathlib.Path(path)
    if place.suffix.lower() == ".npy":
        return _check_matrix(_load(place), str(place)), None
    matrix, texts = _from_npz(place, Columns(label=None, id=id_column, split=None))
    ids = texts.get(id_column or "")
    if ids is not None and len(ids) != len(matrix):
        raise ValueError(
            f"{shown(place)} has {len(matrix)} embeddings and {len(ids)} ids; there must "
            "be one for each"
        )
    return matrix, ids


def rows_of_lists(
    lists: pa.Array, width: int | None
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """An Arrow array of lists as (n, width) float32, and which of them those are.

    Args:
      lists: N of them.
      width: of a row; None for that of the first list.

    Returns:
      The matrix, the numbers of the rows that have the width, and the width.
    """
    widths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy()
    if width is None and (widths >= 0).any():
        width = int(widths[np.argmax(widths >= 0)])
    good = np.flatnonzero(widths == (width or -2))
    chosen = lists.take(pa.array(good))
    values = chosen.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    return values.reshape(len(good), width or 0), good, width


def has_embeddings(table: Table) -> bool:
    """Whether a Parquet file has a column of lists by that name."""
    if not table.is_parquet or COLUMN not in table.columns:
        return False
    kind = table.schema.field(COLUMN).type
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
        )
    )


def check_finite(matrix: np.ndarray, place: str) -> None:
    """Raises `BadItem` for the first row with NaN or infinity; reads block by block."""
    step = max(1, _BLOCK // max(1, matrix.itemsize * matrix.shape[1]))
    for start in range(0, len(matrix), step):
        bad = ~np.isfinite(matrix[start : start + step]).all(axis=1)
        if bad.any():
            raise _not_finite(place, start + int(np.argmax(bad)))


def _not_finite(place: str, row: int) -> BadItem:
    return BadItem(
        f"row {row} of {place}",
        "the embedding holds NaN or infinity; compute it anew, or leave the row out "
        'with on_bad_item="skip"',
    )


def _check_matrix(matrix: np.ndarray, place: str) -> np.ndarray:
    if matrix.dtype.kind not in "fiu":
        raise ValueError(
            f"{shown(place)} should hold one number a column, found {matrix.dtype}; "
            "rows of different widths are saved as objects, which are not read"
        )
    if matrix.ndim != 2 or not all(matrix.shape):
        raise ValueError(
            f"{shown(place)} should hold a matrix, a row for each item, found shape "
            f"{matrix.shape}"
        )
    return matrix


def _from_npy(
    place: pathlib.Path, columns: Columns
) -> tuple[np.ndarray, dict[str, Strings]]:
    matrix = _check_matrix(_load(place), str(place))
    for stem in (f"{place.stem}.labels", "labels"):
        if (found := place.with_name(f"{stem}.npy")).exists() and found != place:
            return matrix, {columns.label or "label": _texts(_load(found), found)}
        if (found := place.with_name(f"{stem}.csv")).exists():
            table = Table(found)
            wanted = columns_.known_columns(table, columns, require_labels=True)
            return matrix, table.read(wanted)
    return matrix, {}


def _load(place: pathlib.Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped."""
    try:
        return np.lib.format.open_memmap(place, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{shown(place)} can't be read as an array of numbers: {error}; rows of "
            "different widths are saved as objects, which are not read"
        ) from error


def _texts(values: np.ndarray, place: object) -> Strings:
    """Labels as text: integers by their digits, negative ones and NaN are none."""
    if values.ndim != 1 or values.dtype.kind not in "fiuUSb":
        raise ValueError(
            f"{shown(place)} should hold one text or number for each row, found shape "
            f"{values.shape} of {values.dtype}"
        )
    if values.dtype.kind in "US":
        return Strings.of(values.astype(str).tolist())
    if values.dtype.kind == "f" and not np.all(np.isnan(values) | (values % 1 == 0)):
        raise ValueError(f"{shown(place)} should hold whole numbers, found fractions")
    return Strings.of(str(int(v)) if v >= 0 else "" for v in values.tolist())


def _from_npz(
    place: pathlib.Path, columns: Columns
) -> tuple[np.ndarray, dict[str, Strings]]:
    if not zipfile.is_zipfile(place):
        raise ValueError(f"{shown(place)} can't be read: it is no .npz file")
    with np.load(place, allow_pickle=False) as members:
        chosen = _matrix_member(place, members.files)
        texts = {
            column: _texts(_member(place, members, name), f"{place}, member {name}")
            for column, name in _members(members.files, columns)
        }
        matrix = _mapped(place, f"{chosen}.npy")
        if matrix is None:
            matrix = _member(place, members, chosen)
    return _check_matrix(matrix, str(place)), texts


def _member(
    place: pathlib.Path, members: Mapping[str, np.ndarray], name: str
) -> np.ndarray:
    try:
        return members[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"member {name} of {shown(place)} can't be read as an array of numbers or "
            f"text: {error}"
        ) from error


def _members(names: list[str], columns: Columns) -> Iterator[tuple[str, str]]:
    """Columns and the members that hold them."""
    for column in (columns.label, columns.id, columns.split, columns.truth):
        for name in (column, f"{column}s"):
            if column is not None and name in names:
                yield column, name
                break


def _matrix_member(place: pathlib.Path, names: list[str]) -> str:
    for name in _MEMBERS:
        if name in names:
            return name
    matrices = [name for name in names if _ndim(place, name) == 2]
    if len(matrices) == 1:
        return matrices[0]
    raise ValueError(
        f"{shown(place)} should have a member `embeddings`, or just one matrix; found "
        f"{', '.join(map(shown, names)) or 'nothing'}"
    )


def _ndim(place: pathlib.Path, member: str) -> int:
    with zipfile.ZipFile(place) as archive, archive.open(f"{member}.npy") as file:
        return len(_header(file)[0])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"the array has version {version}, which is not known")
    return read(file)


def _mapped(place: pathlib.Path, member: str) -> np.ndarray | None:
    """A member of a zip file, memory-mapped; None if it is compressed."""
    with zipfile.ZipFile(place) as archive:
        entry = archive.getinfo(member)
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    with open(place, "rb") as file:
        # The local header: 30 bytes, then the name and an extra field of its own.
        file.seek(entry.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
        file.seek(entry.header_offset + 30 + name + extra)
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            return None  # refused later, with a message
        return np.memmap(place, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _from_parquet(
    place: pathlib.Path, columns: Columns, require_labels: bool
) -> tuple[np.ndarray, dict[str, Strings]]:
    table = Table(place)
    wanted = columns_.known_columns(table, columns, require_labels)
    texts = table.read(wanted) if wanted else {}
    with pyarrow.parquet.ParquetFile(place, memory_map=True) as file:
        return _lists(file, str(place)), texts


def _lists(file: pyarrow.parquet.ParquetFile, place: str) -> np.ndarray:
    """The column of lists as (N, D) float32, filled batch by batch."""
    matrix, row = np.empty((0, 0), np.float32), 0
    for batch in file.iter_batches(_ROWS, columns=[COLUMN]):
        lists = batch.column(0)
        if not len(lists):
            continue
        if row == 0:
            width = len(lists[0]) if lists[0].is_valid else 0
            matrix = np.empty((file.metadata.num_rows, width), np.float32)
        widths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        wrong = np.flatnonzero(widths != matrix.shape[1])
        if len(wrong):
            raise ValueError(
                f"{shown(place)} should hold embeddings of one width: row 0 has "
                f"{matrix.shape[1]} values, row {row + wrong[0]} (from 0) has "
                f"{widths[wrong[0]]}"
            )
        values = lists.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
        matrix[row : row + len(lists)] = values.reshape(len(lists), -1)
        row += len(lists)
    return _check_matrix(matrix, place)
