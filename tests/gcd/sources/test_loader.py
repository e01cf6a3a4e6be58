"""Batches come in the order asked for, whoever reads them and wherever they start."""

import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import ArrayItems, BadItem, Records
from eagc_jax.gcd.sources.strings import RowNumbers


class Slow:
    """Items that take different times, count how many are out, and may be bad."""

    def __init__(self, number, bad=(), wait=0.0):
        self.number, self.bad, self.wait = number, set(bad), wait
        self.read, self.lock = [], threading.Lock()

    def __len__(self):
        return self.number

    def __getitem__(self, row):
        with self.lock:
            self.read.append(row)
        time.sleep(self.wait * (row * 7 % 5))
        if row in self.bad:
            raise BadItem(f"/data/{row}.jpg", "is empty")
        return np.full((2, 2), row)

    def digest(self, row):
        return bytes(16)


def records(items, kind="image"):
    labels = np.full(len(items), -1, np.int32)
    ids = tuple(f"{row}.jpg" for row in range(len(items)))
    return Records("slow", kind, items, ids, labels, ("a",), 1)


def read(items, rows, **options):
    options = {"batch_size": 3, "threads": 2, "kind": "image"} | options
    kind = options.pop("kind")
    return sources.read(records(items, kind), rows, lambda x: x + 0.5, **options)


def batches(reader):
    return [(rows.tolist(), arrays[:, 0, 0].tolist()) for rows, arrays in reader]


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_any_number_of_threads_gives_the_same_batches(threads, kind):
    order = np.random.default_rng(0).integers(0, 20, 11)
    reader = read(Slow(20, wait=1e-3), order, threads=threads, kind=kind)
    expected = [order[i : i + 3].tolist() for i in range(0, 11, 3)]
    assert batches(reader) == [(rows, [r + 0.5 for r in rows]) for rows in expected]
    assert list(reader) == []


@settings(max_examples=20)
@given(
    number=st.integers(0, 12),
    batch_size=st.integers(1, 5),
    after=st.integers(0, 4),
    bad=st.sets(st.integers(0, 11)),
    threads=st.sampled_from([0, 2]),
)
def test_reading_goes_on_in_the_middle(number, batch_size, after, bad, threads):
    def start():
        return read(
            Slow(12, bad),
            range(number),
            batch_size=batch_size,
            threads=threads,
            on_bad_item="skip",
        )

    whole = start()
    every = batches(whole)
    good = [row for row in range(number) if row not in bad]
    assert [r for rows, _ in every for r in rows] == good
    assert all(len(rows) == batch_size for rows, _ in every[:-1])
    assert [row for row, _ in whole.bad] == sorted(bad & set(range(number)))
    first = start()
    head = [next(first) for _ in range(min(after, len(every)))]
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    second = start()
    second.set_state(state)
    assert batches(head) + batches(second) == every
    assert [row for row, _ in second.bad] == [row for row, _ in whole.bad]


def test_a_bad_item_is_named_when_its_turn_comes():
    reader = read(Slow(9, bad=[4]), range(9))
    assert next(reader)[0].tolist() == [0, 1, 2]
    with pytest.raises(BadItem, match=r"4\.jpg: is empty"):
        next(reader)


def test_a_bad_item_is_named_by_its_id():
    items = Slow(2, bad=[1])
    named = Records(
        "x", "image", items, ("A7", "B8"), np.full(2, -1, np.int32), ("a",), 1
    )
    reader = sources.read(named, [1], np.asarray, batch_size=1)
    with pytest.raises(BadItem, match=r"B8 \(/data/1\.jpg\): is empty"):
        next(reader)


def test_other_errors_of_prepare_are_not_swallowed():
    def broken(item):
        raise ZeroDivisionError("on purpose")

    reader = sources.read(records(Slow(3)), range(3), broken, batch_size=2, threads=2)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        next(reader)


def test_no_more_is_read_than_two_batches_ahead():
    items = Slow(1000)
    reader = read(items, range(1000), batch_size=5, threads=2)
    next(reader)
    time.sleep(0.2)
    assert len(items.read) <= 5 + 2 * 5 + 1
    reader.close()


def test_nothing_is_read_before_it_is_asked_for():
    items = Slow(10)
    reader = read(items, range(10))
    time.sleep(0.05)
    assert items.read == []
    reader.close()


def test_threads_read_at_the_same_time():
    barrier = threading.Barrier(4, timeout=20)  # passes only if four wait at once

    def prepare(item):
        barrier.wait()
        return item

    reader = sources.read(records(Slow(8)), range(8), prepare, batch_size=8, threads=4)
    assert next(reader)[0].tolist() == list(range(8))


def test_texts_and_a_collate_of_ones_own():
    labels = np.full(3, -1, np.int32)
    items = ["a", "bb", "ccc"]
    texts = Records("t", "text", items, RowNumbers(3), labels, (), 0)  # type: ignore[arg-type]
    reader = sources.read(texts, [2, 0], len, batch_size=2, collate=tuple)
    assert next(reader)[1] == (3, 1)


def test_wrong_arguments():
    few = records(ArrayItems(np.zeros((3, 1))))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sources.read(few, [0], np.asarray, batch_size=0)
    for rows in ([3], [-1]):
        with pytest.raises(ValueError, match=r"rows must be in \[0, 3\)"):
            sources.read(few, rows, np.asarray, batch_size=1)
    reader = sources.read(few, [0], np.asarray, batch_size=1)
    with pytest.raises(ValueError, match="its position is 2, there are 1 rows"):
        reader.set_state({"position": 2, "bad": []})
