"""Records to features: only what the cache lacks is computed, each content once."""

from __future__ import annotations

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple, get_args

import numpy as np

from eagc_jax.gcd.backbones import batches
from eagc_jax.gcd.backbones.base import Backbone
from eagc_jax.gcd.backbones.cache.shards import DIGEST
from eagc_jax.gcd.backbones.cache.store import FeatureStore
from eagc_jax.gcd.sources.records import BadItem, OnBadItem, Records

OnProgress = Callable[[int, int, float, float], None]
_OfRows = Callable[[np.ndarray], np.ndarray]  # rows' features

_DIGESTS_A_TASK = 1024
_RATE_SECONDS = 30.0  # the rate is that of the last so many seconds
_ROWS_CHECKED = 2**16  # embeddings that are looked at together for NaN


class BadRow(NamedTuple):
    """A row of the records without a feature, and why."""

    row: int
    error: BadItem


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Features of records, in their order."""

    features: np.ndarray  # (n, width) float32; read-only where it is memory-mapped
    rows: np.ndarray  # (n,) int64, of the records: all N, less the bad ones
    bad: tuple[BadRow, ...]  # skipped, by row
    embedded: int  # contents that were computed now, as the cache lacked them
    seconds: float  # wall clock


def embed(
    records: Records,
    backbone: Backbone,
    *,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    on_bad_item: OnBadItem = "raise",
    on_progress: OnProgress | None = None,
) -> Embedded:
    """The feature of each record by a frozen backbone.

    Only contents that the cache lacks are computed, each once, and they go into the
    cache as they are done: who interrupts the program goes on later from there. Texts
    are sorted by length, some thousands at a time, so that little padding is computed.
    Embeddings that are features already (a backbone with a true `identity`) are
    returned as they are.

    A backbone of depth 0 that is no `nnx.Module` is called with NumPy arrays; all
    others are compiled, once for each shape that they collate to.

    Args:
      records: N of them, of the backbone's kind.
      backbone: gives the features.
      cache: its folder, as `cache.default_folder()`; None keeps nothing.
      batch_size: items computed at once; by default 32 on CPU, else 256 for each
        device. The last batch is filled up, and cut after. Where the size is a
        multiple of the number of local devices, they divide each batch.
      threads: that read and prepare items; by default one for each core, at most 16.
      on_bad_item: an item that can't be read, or whose feature is not finite, raises;
        or is left out and listed.
      on_progress: called with `(done, total, rate, seconds_left)` after each batch: of
        the contents that are to be computed, and a second.

    Returns:
      The features with their rows.

    Raises:
      BadItem: an item is bad, and `on_bad_item` is "raise".
      ValueError: a wrong kind of records, or an argument out of its range.
      OSError: the cache could not be written.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> class Doubled:
      ...     kind, width, depth, preparation = "embedding", 2, 0, "none"
      ...     def fingerprint(self): return "doubled"
      ...     def prepare(self, item): return item
      ...     def collate(self, prepared): return np.stack(prepared)
      ...     def prefix(self, arrays, num_blocks): return 2 * arrays
      ...     def readout(self, cached, num_blocks): return cached
      >>> records = sources.Records(
      ...     "pairs", "embedding", sources.ArrayItems(np.eye(2, dtype=np.float32)),
      ...     ids=("a", "b"), labels=np.array([0, -1], np.int32),
      ...     class_names=("known",), num_known=1,
      ... )
      >>> embed(records, Doubled()).features.tolist()
      [[2.0, 0.0], [0.0, 2.0]]
    """
    started = time.perf_counter()
    _check(records, backbone, batch_size, threads, on_bad_item)
    size = batch_size or batches.default_batch_size()
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16))
    work = _Work(records, backbone, size, pool, on_bad_item, on_progress)
    try:
        if getattr(backbone, "identity", False):
            features, embedded = _as_they_are(work), 0
        else:
            contents = _contents(work)
            features, embedded = _features(work, contents, cache)
            _spread(work.bad, contents)
    finally:
        pool.shutdown(cancel_futures=True)
    bad = tuple(BadRow(row, error) for row, error in sorted(work.bad.items()))
    rows = np.delete(np.arange(len(records)), [row for row, _ in bad])
    return Embedded(features(rows), rows, bad, embedded, time.perf_counter() - started)


class _Contents(NamedTuple):
    """The distinct contents, by the first row that has each."""

    digests: np.ndarray  # (U,) of dtype S16
    first: np.ndarray  # (U,) int64, rows
    of_row: np.ndarray  # (N,) int64 index of the row's content, -1 for bad rows


@dataclasses.dataclass
class _Work:
    """What all steps need, and the bad rows that they find."""

    records: Records
    backbone: Backbone
    batch_size: int
    pool: Executor
    on_bad_item: OnBadItem
    on_progress: OnProgress | None
    bad: dict[int, BadItem] = dataclasses.field(default_factory=dict)

    def note(self, row: int, error: BadItem) -> None:
        """Lists it, or raises it."""
        if self.on_bad_item == "raise":
            raise error
        self.bad[row] = error


class _Progress:
    """Tells how far it is, with the rate of the last half minute."""

    def __init__(self, total: int, report: OnProgress | None):
        self._total, self._report = total, report
        self._marks = collections.deque([(time.monotonic(), 0)])

    def __call__(self, done: int) -> None:
        if self._report is None:
            return
        now = time.monotonic()
        while len(self._marks) > 1 and now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        self._marks.append((now, done))
        rate = (done - before) / max(now - then, 1e-9)
        self._report(done, self._total, rate, (self._total - done) / max(rate, 1e-9))


def _check(
    records: Records,
    backbone: Backbone,
    batch_size: int | None,
    threads: int | None,
    on_bad_item: OnBadItem,
) -> None:
    if records.kind != backbone.kind:
        raise ValueError(
            f"the records of {records.name} are of kind {records.kind!r}, the backbone "
            f"takes {backbone.kind!r}; choose another backbone"
        )
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if on_bad_item not in get_args(OnBadItem):
        choices = " or ".join(map(repr, get_args(OnBadItem)))
        raise ValueError(f"on_bad_item must be {choices}, got {on_bad_item!r}")


def _contents(work: _Work) -> _Contents:
    digests = _digests(work)
    of_row = np.full(len(digests), -1, np.int64)
    good = np.delete(np.arange(len(digests)), sorted(work.bad))
    _, first, index = np.unique(digests[good], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    of_row[good] = rank[index]
    rows = good[first[order]]
    return _Contents(digests[rows], rows, of_row)


def _digests(work: _Work) -> np.ndarray:
    """(N,) of dtype S16; zeros for bad rows, which are noted."""
    digests = np.zeros(len(work.records), DIGEST)

    def some(start: int) -> list[BadRow]:
        rows = range(start, min(start + _DIGESTS_A_TASK, len(digests)))
        found = [_digest(work.records, row) for row in rows]
        good = (bytes(16) if isinstance(one, BadItem) else one for one in found)
        digests[rows.start : rows.stop] = np.frombuffer(b"".join(good), DIGEST)
        both = zip(rows, found, strict=True)
        return [BadRow(row, one) for row, one in both if isinstance(one, BadItem)]

    for bad in work.pool.map(some, range(0, len(digests), _DIGESTS_A_TASK)):
        for row, error in bad:
            work.note(row, error)
    return digests


def _digest(records: Records, row: int) -> bytes | BadItem:
    try:
        digest = records.items.digest(row)
    except BadItem as error:
        return error
    if len(digest) != DIGEST.itemsize:
        raise ValueError(
            f"the digest of row {row} of {records.name} must have {DIGEST.itemsize} "
            f"bytes, got {len(digest)}"
        )
    return digest


def _features(
    work: _Work, contents: _Contents, cache: str | os.PathLike[str] | None
) -> tuple[_OfRows, int]:
    """What gives rows their features, and how many contents were computed for that."""
    return (
        _in_memory(work, contents)
        if cache is None
        else _through_cache(work, contents, cache)
    )


def _in_memory(work: _Work, contents: _Contents) -> tuple[_OfRows, int]:
    features = np.empty((len(contents.first), work.backbone.width), np.float32)
    embedded = 0
    for which, found in _computed(work, contents.first):
        features[which] = found
        embedded += len(which)

    def of_rows(rows: np.ndarray) -> np.ndarray:
        index = contents.of_row[rows]
        in_place = np.array_equal(index, np.arange(len(features)))
        return features if in_place else features[index]

    return of_rows, embedded


def _through_cache(
    work: _Work, contents: _Contents, cache: str | os.PathLike[str]
) -> tuple[_OfRows, int]:
    backbone, embedded = work.backbone, 0
    store = FeatureStore(
        cache, backbone.fingerprint(), backbone.preparation, backbone.width
    )
    positions = store.find(contents.digests)
    missing = np.flatnonzero(positions < 0)
    try:
        for which, found in _computed(work, contents.first[missing]):
            store.add(contents.digests[missing[which]], found)
            embedded += len(which)
    finally:  # what is done is kept, whatever ended it
        store.flush()
    positions[missing] = store.find(contents.digests[missing])

    def of_rows(rows: np.ndarray) -> np.ndarray:
        return store.ordered(positions[contents.of_row[rows]])

    return of_rows, embedded


def _computed(work: _Work, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index (b,) into rows and features (b, width), batch after batch; bad are noted."""
    size, progress = work.batch_size, _Progress(len(rows), work.on_progress)
    if not len(rows):  # not even the weights go to the device
        return
    forward = batches.forward(work.backbone, size)
    items = batches.prepared(work.records, work.backbone, rows, size, work.pool)
    good = _good(work, rows, items)
    cut = batches.batches(good, size, batches.window(work.backbone, size))
    results = (
        (np.array([i for i, _ in batch]), forward([item for _, item in batch]))
        for batch in cut
    )
    done, bad_before = 0, len(work.bad)
    for which, features in batches.one_behind(results):
        finite = _finite(work, rows, which, np.asarray(features)[: len(which)])
        yield finite
        done += len(finite[0])
        progress(done + len(work.bad) - bad_before)


def _good(
    work: _Work, rows: np.ndarray, items: Iterator[batches.Prepared]
) -> Iterator[batches.Prepared]:
    for i, item in items:
        if isinstance(item, BadItem):
            work.note(int(rows[i]), item)
        else:
            yield i, item


def _finite(
    work: _Work, rows: np.ndarray, which: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Less those whose feature has NaN or an infinity: a cache must not keep them."""
    if features.shape != (len(which), work.backbone.width):
        raise ValueError(
            f"the backbone of width {work.backbone.width} gave features of shape "
            f"{features.shape} for {len(which)} items"
        )
    finite = np.isfinite(features).all(axis=1)
    for row in rows[which[~finite]].tolist():
        work.note(row, _not_finite(work.records, row))
    return which[finite], features[finite]


def _not_finite(records: Records, row: int) -> BadItem:
    return BadItem(str(records.ids[row]), "its feature is not finite (NaN or infinite)")


def _spread(bad: dict[int, BadItem], contents: _Contents) -> None:
    """All rows whose content is that of a bad row are bad."""
    first = [row for row in bad if contents.of_row[row] >= 0]
    error_of = {contents.of_row[row]: bad[row] for row in first}
    for row in np.flatnonzero(np.isin(contents.of_row, list(error_of))):
        bad[int(row)] = error_of[contents.of_row[row]]


def _as_they_are(work: _Work) -> _OfRows:
    """Embeddings that are features: the array itself, looked at for NaN in pieces."""
    records, width = work.records, work.backbone.width
    array = getattr(records.items, "array", None)
    if array is None:
        array = _stacked(work)
    if array.shape != (len(records), width):
        raise ValueError(
            f"the embeddings of {records.name} must have shape "
            f"({len(records)}, {width}), got {array.shape}"
        )
    for start in range(0, len(array), _ROWS_CHECKED):
        finite = np.isfinite(array[start : start + _ROWS_CHECKED]).all(axis=1)
        for row in (start + np.flatnonzero(~finite)).tolist():
            if row not in work.bad:
                work.note(row, _not_finite(records, row))
    return lambda rows: _read_only(array if len(rows) == len(array) else array[rows])


def _stacked(work: _Work) -> np.ndarray:
    array = np.full((len(work.records), work.backbone.width), np.nan, np.float32)
    for row in range(len(array)):
        try:
            array[row] = work.records.items[row]
        except BadItem as error:
            work.note(row, error)
    return array


def _read_only(array: np.ndarray) -> np.ndarray:
    """float32, and the user's data can't be written by way of it."""
    view = np.asanyarray(array, np.float32).view()
    view.flags.writeable = False
    return view
