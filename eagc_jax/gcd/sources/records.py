"""What a source yields: the items in order, what is known of them, nothing decoded."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from eagc_jax.gcd.sources.strings import RowNumbers, Strings, shown

Kind = Literal["image", "text", "embedding"]

# "raise" stops at the first item that can't be used; "skip" goes on and lists them.
OnBadItem = Literal["raise", "skip"]

#: An array of an image or of an embedding, or a text: the records' kind says which.
Item: TypeAlias = Any


def check_on_bad_item(value: str) -> None:
    """Raises ValueError for anything else."""
    if value not in get_args(OnBadItem):
        choices = " or ".join(f'"{choice}"' for choice in get_args(OnBadItem))
        raise ValueError(f"on_bad_item must be {choices}, got {value!r}")


class Items(Protocol):
    """N items, each read when it is asked for.

    An image is an (H, W, C) array, uint8 in [0, 255] or float32 in [0, 1], upright, with
    one or three channels; a text is a `str`; an embedding is a (D,) float32 array.
    """

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, row: int, /) -> Item:
        """One item, decoded; raises `BadItem` where that can't be done."""
        ...

    def digest(self, row: int, /) -> bytes:
        """16 bytes that are the same for the same content, wherever it lies."""
        ...


class BadItem(ValueError):
    """An item that can't be read: which, and why; a message for people.

    The message is one line: control characters of a name are escaped in it.
    """

    def __init__(self, item: str, reason: str):
        super().__init__(f"{shown(item)}: {shown(reason)}")
        self.item = item
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadItem], tuple[str, str]]:
        """Both arguments survive pickling, on the way out of another process."""
        return BadItem, (self.item, self.reason)


class ArrayItems:
    """Items that are the rows of an array, in memory or memory-mapped."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __len__(self) -> int:
        """N."""
        return len(self.array)

    def __getitem__(self, row: int) -> np.ndarray:
        """A copy of nothing: the row itself."""
        return self.array[row]

    def digest(self, row: int) -> bytes:
        """Of the shape, the dtype and the values."""
        one = np.ascontiguousarray(self.array[row])
        found = hashlib.blake2b(f"{one.shape} {one.dtype}".encode(), digest_size=16)
        found.update(one.tobytes())
        return found.digest()


class ChosenItems:
    """Some items of others, in another order; they are read from there."""

    def __init__(self, items: Items, rows: np.ndarray):
        self.items = items
        self.rows = rows

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, row: int) -> Item:
        """The item itself."""
        return self.items[int(self.rows[row])]

    def digest(self, row: int) -> bytes:
        """As it is there."""
        return self.items.digest(int(self.rows[row]))


@dataclasses.dataclass(frozen=True)
class Records:
    """The items of a source, in its order, and what is known of them.

    Classes are numbered with the known ones first. Training sees `labels`; `truth` is
    for scoring alone, and most people's data have none. Records opened without labels,
    to be embedded only, have no known class: `num_known` is 0.

    Raises:
      ValueError: lengths differ, or a label is out of range.

    Examples:
      >>> records = Records(
      ...     "pairs", "embedding", ArrayItems(np.eye(4, dtype=np.float32)),
      ...     ids=("a", "b", "c", "d"), labels=np.array([0, 0, -1, -1], np.int32),
      ...     class_names=("known",), num_known=1,
      ... )
      >>> len(records), records.labeled_mask.tolist()
      (4, [True, True, False, False])
    """

    name: str
    kind: Kind
    items: Items
    ids: Sequence[str]  # (N,) unique and stable
    labels: np.ndarray  # (N,) int32 in [0, num_known), -1 where there is none
    class_names: tuple[str, ...]  # known classes; then novel ones, where `truth` knows
    num_known: int
    truth: np.ndarray | None = None  # (N,) int32, index into class_names
    parts: np.ndarray | None = None  # (N,) of str: "train", "test", ...
    skipped: tuple[BadItem, ...] = ()  # what was left out when the source was listed

    def __post_init__(self) -> None:
        for name in ("ids", "labels", "truth", "parts"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.items):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self.items)} "
                    f"items of {self.name}, got {len(value)}"
                )
        if not 0 <= self.num_known <= len(self.class_names):
            raise ValueError(
                f"num_known must be in [0, {len(self.class_names)}], the classes of "
                f"{self.name}; got {self.num_known}"
            )
        if len(self.labels) and not (
            self.labels.min() >= -1 and self.labels.max() < self.num_known
        ):
            raise ValueError(
                f"labels must be in [-1, {self.num_known}), got "
                f"{self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        """N."""
        return len(self.items)

    @property
    def labeled_mask(self) -> np.ndarray:
        """(N,) bool: the label may be used in training."""
        return self.labels >= 0

    @property
    def num_classes(self) -> int | None:
        """Known plus novel classes, where the truth is known; else None."""
        return None if self.truth is None else len(self.class_names)

    @property
    def old_mask(self) -> np.ndarray:
        """(N,) bool, True where the true class is known; needs the truth."""
        if self.truth is None:
            raise ValueError(f"{self.name} has no true classes to score with")
        return self.truth < self.num_known

    def select(self, rows: np.ndarray | Sequence[int]) -> Records:
        """The records of some rows, in the order given; nothing is read.

        Args:
          rows: (M,) integers in [0, N), or (N,) booleans.

        Returns:
          M records with the same classes.

        Raises:
          ValueError: a row is out of range.

        Examples:
          >>> from eagc_jax.gcd import sources
          >>> digits = sources.load("digits")
          >>> list(digits.select([3, 1]).ids)
          ['3', '1']
        """
        rows = np.asarray(rows)
        if rows.dtype == bool and len(rows) == len(self):
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise ValueError(
                f"rows must be in [0, {len(self)}), or {len(self)} booleans; got "
                f"{len(rows)} from {rows.min()} to {rows.max()}"
            )

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return dataclasses.replace(
            self,
            items=ChosenItems(self.items, rows),
            ids=_chosen_ids(self.ids, rows),
            labels=self.labels[rows],
            truth=of(self.truth),
            parts=of(self.parts),
        )

    def without(self, rows: np.ndarray | Sequence[int]) -> Records:
        """All records but those of some rows, e.g. of items that can't be read."""
        keep = np.ones(len(self), bool)
        keep[np.asarray(rows, np.int64)] = False
        return self.select(keep)


def _chosen_ids(ids: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    if isinstance(ids, Strings | RowNumbers):
        return ids.take(rows)
    return tuple(ids[int(row)] for row in rows)
