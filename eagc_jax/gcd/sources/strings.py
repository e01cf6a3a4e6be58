"""Many strings in two buffers, and names that are safe to print."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# How bytes that are no UTF-8 become text: "surrogateescape" can be turned back into the
# same bytes, to open a file; "backslashreplace" can be written to any file.
Undecodable = Literal["surrogateescape", "backslashreplace"]

_BLOCK = 65_536  # strings that are Python objects at a time


def shown(name: object) -> str:
    r"""A name as one line of a message: what can't be printed is escaped.

    Examples:
      >>> shown("holiday\n1.jpg")
      'holiday\\n1.jpg'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name)
    )


class Strings(Sequence[str]):
    """N strings in one byte buffer with N + 1 offsets, or a few such pairs.

    A list of N short strings takes about 100 bytes for each string more than its
    characters; this takes 8. Reading one costs about a microsecond.

    Args:
      array: Arrow array of `large_binary`, or of any type that can be cast to it.
      undecodable: what becomes of bytes that are not UTF-8.

    Examples:
      >>> names = Strings.of(["b.jpg", "a.jpg"])
      >>> names[1], len(names), list(names[:1])
      ('a.jpg', 2, ['b.jpg'])
    """

    def __init__(
        self,
        array: pa.Array | pa.ChunkedArray,
        undecodable: Undecodable = "surrogateescape",
    ):
        chunked = array if isinstance(array, pa.ChunkedArray) else [array]
        whole = pa.chunked_array(chunked, type=array.type)
        self.array: pa.ChunkedArray = whole.cast(pa.large_binary())
        self.undecodable: Undecodable = undecodable

    @classmethod
    def of(
        cls, strings: Iterable[str], undecodable: Undecodable = "surrogateescape"
    ) -> Strings:
        """From an iterable, of which no more than a block is held as objects."""
        return cls(pack(s.encode("utf-8", undecodable) for s in strings), undecodable)

    def __len__(self) -> int:
        """N."""
        return len(self.array)

    @overload
    def __getitem__(self, index: int, /) -> str: ...
    @overload
    def __getitem__(self, index: slice, /) -> Strings: ...
    def __getitem__(self, index: int | slice, /) -> str | Strings:
        """One string; or a slice, which copies nothing where its step is 1."""
        if isinstance(index, slice):
            return Strings(self.array[index], self.undecodable)
        return self.array[int(index)].as_py().decode("utf-8", self.undecodable)

    def __iter__(self) -> Iterator[str]:
        """In order, a block at a time."""
        for start in range(0, len(self), _BLOCK):
            for value in self.array[start : start + _BLOCK].to_pylist():
                yield value.decode("utf-8", self.undecodable)

    def __eq__(self, other: object) -> bool:
        """Whether the other is a `Strings` of the same strings."""
        return isinstance(other, Strings) and self.array.equals(other.array)

    def take(self, rows: np.ndarray) -> Strings:
        """The strings of these rows, in their order."""
        return Strings(self.array.take(pa.array(rows, pa.int64())), self.undecodable)

    def printable(self) -> Strings:
        """The same buffers, read as text that can be written to any file."""
        return Strings(self.array, "backslashreplace")

    def duplicate(self) -> tuple[int, int] | None:
        """Two rows with the same string, or None."""
        if len(pc.unique(self.array)) == len(self.array):
            return None
        seen: dict[str, int] = {}
        for row, value in enumerate(self):
            if value in seen:
                return seen[value], row
            seen[value] = row
        return None


class RowNumbers(Sequence[str]):
    """Numbers of rows as text: "0", "1", ... of N rows, which take no memory, or others.

    Args:
      rows: N, or an array of N integers.

    Examples:
      >>> list(RowNumbers(3)), RowNumbers(np.array([7, 4]))[1]
      (['0', '1', '2'], '4')
    """

    def __init__(self, rows: int | np.ndarray):
        self.rows: np.ndarray | range = (
            rows if isinstance(rows, np.ndarray) else range(rows)
        )

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int, /) -> str: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[str]: ...
    def __getitem__(self, index: int | slice, /) -> str | list[str]:
        """The number as text."""
        if isinstance(index, slice):
            return [str(int(row)) for row in self.rows[index]]
        return str(int(self.rows[index]))

    def take(self, rows: np.ndarray) -> RowNumbers:
        """The numbers of these rows, in their order."""
        # Of all rows in order, the numbers are the rows.
        return RowNumbers(rows if isinstance(self.rows, range) else self.rows[rows])


def pack(values: Iterable[bytes]) -> pa.ChunkedArray:
    """Byte strings in Arrow's buffers; few of them are Python objects at any time."""
    chunks, block = [], []
    for value in values:
        block.append(value)
        if len(block) == _BLOCK:
            chunks.append(pa.array(block, pa.large_binary()))
            block = []
    chunks.append(pa.array(block, pa.large_binary()))
    return pa.chunked_array(chunks)


def ordered(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Sorted by bytes, which for UTF-8 is the order of code points."""
    return array.take(pc.sort_indices(array))
