"""Reading items in a given order: in threads, in bounded memory, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.sources.records import (
    BadItem,
    Item,
    OnBadItem,
    Records,
    check_on_bad_item,
)
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    import grain

T = TypeVar("T")

# Grain spends about 70 us on each element that its threads pass on: nothing beside an
# image's decoding, much beside looking up a text. So those travel by the dozen.
_CHUNK = {"image": 1, "text": 64, "embedding": 64}


def read(
    records: Records,
    rows: Sequence[int] | np.ndarray,
    prepare: Callable[[Item], T],
    *,
    batch_size: int,
    collate: Callable[[Sequence[T]], PyTree] = np.stack,
    threads: int | None = None,
    on_bad_item: OnBadItem = "raise",
) -> Reader[T]:
    """Batches of prepared items, in the order of `rows`.

    The batches are the same for any number of threads. About two batches of items are
    read ahead; no more are held in memory.

    Args:
      records: of which items are read.
      rows: (M,) integers in [0, N), in any order, also more than once.
      prepare: item -> array or any other object; called in threads.
      batch_size: items in a batch; the last one may have fewer.
      collate: a batch's prepared items -> what is yielded.
      threads: that read and prepare; 0 reads in the caller's own. By default as many as
        there are processors, at most 16.
      on_bad_item: "raise" stops at an item that can't be read; "skip" goes on with the
        next, so that batches stay full, and lists it in the reader's `bad`.

    Returns:
      An iterator of (rows of the batch (B,), collated items). Its `get_state` and
      `set_state` save and restore the place in the order.

    Raises:
      BadItem: names an item that can't be read, by its id, when its turn comes.
      ValueError: batch_size is below 1, or a row is out of range.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> digits = sources.load("digits")
      >>> reader = read(digits, [5, 3, 1], lambda image: image.mean(), batch_size=2)
      >>> rows, means = next(reader)
      >>> rows.tolist(), means.shape
      ([5, 3], (2,))
      >>> state = reader.get_state()
      >>> rows, means = next(reader)
      >>> reader.set_state(state)
      >>> next(reader)[0].tolist() == rows.tolist() == [1]
      True
    """
    return Reader(records, rows, prepare, batch_size, collate, threads, on_bad_item)


class Reader(Iterator[tuple[np.ndarray, PyTree]], Generic[T]):
    """The iterator that `read` returns."""

    def __init__(
        self,
        records: Records,
        rows: Sequence[int] | np.ndarray,
        prepare: Callable[[Item], T],
        batch_size: int,
        collate: Callable[[Sequence[T]], PyTree],
        threads: int | None,
        on_bad_item: OnBadItem,
    ):
        self.records = records
        self.rows: np.ndarray = np.asarray(rows, np.int64)
        _check(self.rows, len(records), batch_size)
        check_on_bad_item(on_bad_item)
        self.bad: list[tuple[int, BadItem]] = []  # rows that were skipped, and why
        self._prepare, self._collate = prepare, collate
        self._batch_size, self._on_bad_item = batch_size, on_bad_item
        self._threads = min(16, os.cpu_count() or 1) if threads is None else threads
        self._position = 0  # in rows, of the next one to be yielded
        self._stream = self._start()

    def __next__(self) -> tuple[np.ndarray, PyTree]:
        """The next batch."""
        rows: list[int] = []
        prepared: list[T] = []
        while len(rows) < self._batch_size and self._position < len(self.rows):
            row, found = next(self._stream)
            if isinstance(found, BadItem):
                self._bad(row, found)
            else:
                rows.append(row)
                prepared.append(found)
            self._position += 1
        if not rows:
            raise StopIteration
        return np.array(rows), self._collate(prepared)

    def get_state(self) -> JsonObject:
        """The place after the last batch, and the bad items so far; fit for JSON."""
        bad = [[row, item.item, item.reason] for row, item in self.bad]
        return {"position": self._position, "bad": bad}

    def set_state(self, state: JsonObject) -> None:
        """Goes on from a place in the same order of rows, also in another process.

        Raises:
          ValueError: the place is beyond the end of this order.
        """
        position = int(state["position"])
        if not 0 <= position <= len(self.rows):
            raise ValueError(
                f"state must be of a reader of the same rows: its position is "
                f"{position}, there are {len(self.rows)} rows"
            )
        self._position = position
        self.bad = [(row, BadItem(item, why)) for row, item, why in state["bad"]]
        self.close()
        self._stream = self._start()

    def close(self) -> None:
        """Ends reading ahead; an exhausted reader needs no closing."""
        self._stream.close()

    def _bad(self, row: int, error: BadItem) -> None:
        if self._on_bad_item == "raise":
            raise error
        self.bad.append((row, error))

    def _start(self) -> Generator[tuple[int, T | BadItem], None, None]:
        """(row, prepared item) from the current position on."""
        import grain  # takes two seconds, which listing need not wait for

        rows = self.rows[self._position :]
        size = min(_CHUNK[self.records.kind], self._batch_size)
        starts = range(0, len(rows), size)
        chunks = grain.MapDataset.source(starts).map(
            lambda start: [
                self._one(row) for row in rows[start : start + size].tolist()
            ]
        )
        ahead = max(self._threads, -(-2 * self._batch_size // size))
        options = grain.ReadOptions(
            num_threads=self._threads,
            prefetch_buffer_size=ahead if self._threads else 0,
        )
        return _flat(chunks.to_iter_dataset(options))

    def _one(self, row: int) -> tuple[int, T | BadItem]:
        # Returned, not raised: what grain's threads raise would come without its turn.
        try:
            return row, self._prepare(self.records.items[row])
        except BadItem as error:
            return row, _named(error, self.records.ids[row])


def _flat(chunks: grain.IterDataset[list[T]]) -> Generator[T, None, None]:
    """The elements of chunks; closing it ends their threads."""
    iterator = iter(chunks)
    try:
        for chunk in iterator:
            yield from chunk
    finally:
        iterator.close()


def _named(error: BadItem, item: str) -> BadItem:
    """The error with the item's id, and its file's name where that says more."""
    whole = f"/{error.item} "
    if whole.endswith(f"/{item} ") or whole.startswith(f"/row {item} "):
        return error
    return BadItem(f"{item} ({error.item})", error.reason)


def _check(rows: np.ndarray, number: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(rows) and not (rows.min() >= 0 and rows.max() < number):
        raise ValueError(
            f"rows must be in [0, {number}), got {rows.min()} to {rows.max()}"
        )
