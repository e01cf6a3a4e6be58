"""Which category each item was given, and how sure that is; as CSV and Parquet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from eagc_jax.gcd.runs.bounded_parquet import read_table
from eagc_jax.gcd.runs.reading import member
from eagc_jax.gcd.sources.strings import shown

COLUMNS = (
    *("id", "label", "assigned", "is_known", "probability", "margin"),
    *("distance", "cluster"),
)
FILE = "assignment.parquet"
_NAMES = (
    b"eagc_jax"  # entry of the Parquet file's metadata: all names, also unused ones
)
_MOST_BYTES = 2**33  # that the columns may take
_KINDS = {  # of what is read again
    **dict.fromkeys(("id", "label"), pa.string()),
    **dict.fromkeys(("probability", "margin", "distance"), pa.float32()),
    "cluster": pa.int32(),
}
_UNREADABLE = (
    *(pa.ArrowException, KeyError, TypeError, OverflowError),
    *(OSError, RecursionError),  # of a damaged file; of deep metadata
)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """N items in their source's order, each with the category that it was given.

    Clusters are numbered with the known classes first. A labeled item keeps its label;
    where its margin is negative, it lies nearer to another category than to its own.

    Examples:
      >>> found = Assignment(
      ...     ("a.jpg", "b.jpg"), labels=np.array([0, -1]), clusters=np.array([0, 1]),
      ...     names=("cat", "novel-1"), num_known=1, probability=np.array([0.9, 0.8]),
      ...     margin=np.array([0.5, 0.4]), distance=np.array([0.1, 0.2]),
      ... )
      >>> found.assigned, found.is_known.tolist(), found.label
      (['cat', 'novel-1'], [True, False], ['cat', ''])
    """

    ids: Sequence[str]
    labels: np.ndarray  # (N,) int, index into names, -1 where none was given
    clusters: np.ndarray  # (N,) int, index into names
    names: tuple[str, ...]  # of K clusters: known classes, then novel-1, ...
    num_known: int
    probability: np.ndarray  # (N,) of the category assigned, in [0, 1]
    margin: np.ndarray  # (N,) squared distance to the nearest other one, less distance
    distance: (
        np.ndarray
    )  # (N,) squared, from the item's feature of length 1 to the centre

    def __post_init__(self) -> None:
        for name in ("labels", "clusters", "probability", "margin", "distance"):
            if len(getattr(self, name)) != len(self.ids):
                raise ValueError(
                    f"{name} must have one entry for each of {len(self.ids)} items, "
                    f"got {len(getattr(self, name))}"
                )

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def assigned(self) -> list[str]:
        """N names."""
        return [self.names[cluster] for cluster in self.clusters.tolist()]

    @property
    def label(self) -> list[str]:
        """N names, empty where no label was given."""
        return [self.names[one] if one >= 0 else "" for one in self.labels.tolist()]

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool: the category is one of the known classes."""
        return self.clusters < self.num_known

    @property
    def sizes(self) -> np.ndarray:
        """(K,) int, how many items each category was given."""
        return np.bincount(self.clusters, minlength=len(self.names))

    def select(self, rows: np.ndarray | Sequence[int]) -> Assignment:
        """The same of some rows, (M,) integers in [0, N), in the order given."""
        rows = np.asarray(rows, np.int64)
        names = ("labels", "clusters", "probability", "margin", "distance")
        arrays = {name: np.asarray(getattr(self, name))[rows] for name in names}
        ids = tuple(self.ids[int(row)] for row in rows)
        return dataclasses.replace(self, ids=ids, **arrays)

    def typical(self, cluster: int) -> int:
        """The row of the item nearest to the centre, of a cluster that has some."""
        rows = np.flatnonzero(self.clusters == cluster)
        return int(rows[np.argmin(self.distance[rows])])

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes assignment.csv and assignment.parquet.

        Both have a row for each item and the columns id, label, assigned, is_known,
        probability, margin, and after these distance and cluster. Where there is no
        label, the CSV's cell is empty and Parquet has null.
        """
        folder = pathlib.Path(folder)
        with open(folder / "assignment.csv", "w", encoding="utf-8", newline="") as file:
            for line in self._csv():
                file.write(line)
        pyarrow.parquet.write_table(self._table(), folder / FILE)

    def _csv(self) -> Iterator[str]:
        columns = (
            *(self.ids, self.label, self.assigned, self.is_known.tolist()),
            *(_short(x) for x in (self.probability, self.margin, self.distance)),
            self.clusters.tolist(),
        )
        yield from csv_lines(COLUMNS, zip(*columns, strict=True))

    def _table(self) -> pa.Table:
        names = pa.array(self.names, pa.string())
        labels = pa.array(self.labels, pa.int32(), mask=self.labels < 0)
        float_columns = (self.probability, self.margin, self.distance)
        columns = [
            pa.array([printable(one) for one in self.ids], pa.string()),
            names.take(labels),
            names.take(pa.array(self.clusters, pa.int32())),
            pa.array(self.is_known),
            *(pa.array(np.asarray(x, np.float32)) for x in float_columns),
            pa.array(self.clusters, pa.int32()),
        ]
        names_too = json.dumps({"names": self.names, "num_known": self.num_known})
        return pa.table(
            dict(zip(COLUMNS, columns, strict=True)),
            metadata={_NAMES: names_too.encode()},
        )

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Assignment:
        """What `write` wrote, out of assignment.parquet.

        Args:
          folder: of the run.

        Returns:
          The assignment.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is none of ours, or damaged.
        """
        path = member(folder, FILE)
        if not path.is_file():
            raise FileNotFoundError(f"{shown(path)} was not found")
        try:
            return _from_table(cls, read_table(path, _KINDS, most=_MOST_BYTES))
        except _UNREADABLE as error:
            raise ValueError(
                f"{shown(path)} can't be read as an assignment: {shown(error)}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{shown(path)}: {error}") from error


def _from_table(kind: type[Assignment], table: pa.Table) -> Assignment:
    told = json.loads((table.schema.metadata or {})[_NAMES])
    names, num_known = tuple(map(str, told["names"])), int(told["num_known"])
    _without_gaps(table)
    columns = {name: table[name].to_numpy() for name in COLUMNS[4:]}
    clusters = columns["cluster"].astype(np.int64)
    number = {name: index for index, name in enumerate(names)}
    labels = np.array(
        [-1 if x is None else number[x] for x in table["label"].to_pylist()], np.int64
    )
    if not 0 <= num_known <= len(names) or len(number) < len(names):
        raise ValueError(f"names must differ, {num_known} of them known, got {names}")
    if len(clusters) and not (clusters.min() >= 0 and clusters.max() < len(names)):
        raise ValueError(f"clusters must be in [0, {len(names)})")
    return kind(
        tuple(table["id"].to_pylist()),
        labels,
        clusters,
        names,
        num_known,
        columns["probability"],
        columns["margin"],
        columns["distance"],
    )


def _without_gaps(table: pa.Table) -> None:
    for name in _KINDS:
        if name != "label" and table[name].null_count:
            raise ValueError(f"column {name} should have a value in every row")


def name_clusters(
    known: Sequence[str], clusters: np.ndarray, num_clusters: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Orders the novel clusters by their sizes, the largest first, and names them.

    Args:
      known: names of the known classes, which are clusters 0, 1, ... and stay so.
      clusters: (N,) integers in [0, num_clusters).
      num_clusters: K, at least as many as are known.

    Returns:
      (K,) which cluster comes 0th, 1st, ...; and their K names: those known, then
      `novel-1`, `novel-2`, ..., less what a known class is called. Of equal sizes, the
      lower number comes first.

    Examples:
      >>> order, names = name_clusters(["cat", "novel-1"], np.array([0, 2, 3, 3, 1]), 4)
      >>> order.tolist(), names
      ([0, 1, 3, 2], ('cat', 'novel-1', 'novel-2', 'novel-3'))
    """
    sizes = np.bincount(clusters, minlength=num_clusters)[len(known) :]
    novel = len(known) + np.argsort(-sizes, kind="stable")
    order = np.concatenate([np.arange(len(known)), novel])
    return order, (*known, *_novel_names(known, len(sizes)))


def _novel_names(known: Sequence[str], number: int) -> list[str]:
    taken = set(known)
    candidates = (f"novel-{i}" for i in range(1, number + len(taken) + 1))
    return [name for name in candidates if name not in taken][:number]


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a CSV, each with its end; what has line breaks or quotes is quoted."""
    buffer = io.StringIO()
    # With this end of line every cell that has either of its two characters is quoted.
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in (header, *rows):
        cells = [printable(x) if isinstance(x, str) else x for x in row]
        writer.writerow(cells)
        yield buffer.getvalue().removesuffix("\r\n") + "\n"
        buffer.seek(0)
        buffer.truncate()


def printable(text: str) -> str:
    """As it can be written to any file: no lone halves of a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _short(values: np.ndarray) -> list[str]:
    """Six digits: more say nothing."""
    return [f"{value:.6g}" for value in values.tolist()]
