"""Compact strings hold what they were given."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd.sources import strings
from eagc_jax.gcd.sources.strings import RowNumbers, Strings, shown

TEXTS = st.lists(st.text(max_size=12), max_size=40)


@given(texts=TEXTS, data=st.data())
def test_strings_are_a_sequence_of_what_went_in(texts, data):
    packed = Strings.of(texts)
    assert len(packed) == len(texts)
    assert list(packed) == texts
    assert [packed[i] for i in range(-len(texts), len(texts))] == texts + texts
    start, stop = data.draw(st.tuples(st.integers(-5, 45), st.integers(-5, 45)))
    assert list(packed[start:stop]) == texts[start:stop]
    if texts:
        rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9))
        assert list(packed.take(np.array(rows, np.int64))) == [texts[r] for r in rows]


@given(texts=TEXTS)
def test_a_duplicate_is_found_where_there_is_one(texts):
    found = Strings.of(texts).duplicate()
    if found is None:
        assert len(set(texts)) == len(texts)
    else:
        first, second = found
        assert first < second
        assert texts[first] == texts[second]


def test_more_strings_than_a_block_and_several_chunks(monkeypatch):
    monkeypatch.setattr(strings, "_BLOCK", 4)
    texts = [f"name {i}" for i in range(11)]
    packed = Strings.of(texts)
    assert packed.array.num_chunks == 3
    assert list(packed) == texts
    assert packed[9] == "name 9"
    assert packed == Strings(pa.array(texts))
    assert packed != Strings(pa.array(texts[:-1]))


def test_an_index_out_of_range_is_refused():
    for empty in (Strings.of([]), RowNumbers(0)):
        assert len(empty) == 0
        with pytest.raises(IndexError):
            empty[0]
    with pytest.raises(IndexError):
        Strings.of(["a"])[1]


def test_undecodable_names_open_files_and_can_be_printed():
    packed = Strings(pa.array([b"caf\xe9.jpg"], pa.large_binary()))
    assert packed[0].encode("utf-8", "surrogateescape") == b"caf\xe9.jpg"
    assert packed.printable()[0] == r"caf\xe9.jpg"
    packed.printable()[0].encode()


def test_eight_bytes_a_string_beside_its_characters():
    packed = Strings.of(f"{i:08d}" for i in range(10_000))
    assert packed.array.nbytes <= 10_000 * (8 + 8) + 64


def test_row_numbers():
    numbers = RowNumbers(12)
    assert list(numbers) == [str(i) for i in range(12)]
    assert numbers[-1] == "11"
    assert numbers[3:5] == ["3", "4"]
    assert list(numbers.take(np.array([11, 0])).take(np.array([1]))) == ["0"]
    assert len(numbers.take(np.array([], np.int64))) == 0
    with pytest.raises(IndexError):
        numbers[12]


@given(name=st.text())
def test_a_shown_name_is_one_printable_line(name):
    assert shown(name).isprintable()
    if name.isprintable():
        assert shown(name) == name


def test_shown_keeps_letters_and_escapes_controls():
    assert shown("né\n\x1b[31m\u202e.jpg") == r"né\n\x1b[31m\u202e.jpg"
