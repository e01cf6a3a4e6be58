"""Parts of records, records without labels, and errors that travel."""

import pickle

import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import ArrayItems, BadItem, Records
from eagc_jax.gcd.sources.strings import RowNumbers, Strings


def records(ids):
    return Records(
        "letters",
        "embedding",
        ArrayItems(np.arange(8.0).reshape(4, 2)),
        ids,
        np.array([1, -1, 0, -1], np.int32),
        ("a", "b", "c"),
        2,
        truth=np.array([1, 2, 0, 0], np.int32),
        parts=np.array(["train", "test", "train", "test"]),
    )


@pytest.mark.parametrize(
    "ids", [("w", "x", "y", "z"), Strings.of("wxyz"), RowNumbers(4)]
)
def test_selected_rows_keep_what_is_known_of_them(ids):
    whole = records(ids)
    for rows in ([3, 0], np.array([3, 0])):
        part = whole.select(rows)
        assert list(part.ids) == [ids[3], ids[0]]
        assert part.labels.tolist() == [-1, 1]
        assert part.truth.tolist() == [0, 1]
        assert part.parts.tolist() == ["test", "train"]
        np.testing.assert_array_equal(part.items[1], [0, 1])
        assert part.items.digest(0) == whole.items.digest(3)
        assert (part.num_known, part.class_names) == (2, ("a", "b", "c"))
    assert list(whole.select(whole.parts == "test").ids) == [ids[1], ids[3]]
    assert list(whole.without([1, 2]).ids) == [ids[0], ids[3]]
    assert len(whole.without([])) == 4
    assert len(whole.select([])) == 0
    for rows in ([4], [-1]):
        with pytest.raises(
            ValueError, match=r"rows must be in \[0, 4\), or 4 booleans"
        ):
            whole.select(rows)
    again = whole.select([3, 2, 1]).select([2, 0])
    np.testing.assert_array_equal(again.items[0], [2, 3])


def test_records_may_have_no_known_class():
    labels = np.full(3, -1, np.int32)
    items = ArrayItems(np.zeros((3, 2)))
    assert Records("n", "embedding", items, RowNumbers(3), labels, (), 0).truth is None
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 0\)"):
        Records("n", "embedding", items, RowNumbers(3), labels + 1, (), 0)
    with pytest.raises(ValueError, match=r"num_known must be in \[0, 0\]"):
        Records("n", "embedding", items, RowNumbers(3), labels, (), 1)


def test_a_bad_item_survives_pickling_and_is_one_line():
    error = BadItem("a\nb.jpg", "is\tempty")
    again = pickle.loads(pickle.dumps(error))
    assert (again.item, again.reason) == ("a\nb.jpg", "is\tempty")
    assert str(again) == str(error) == r"a\nb.jpg: is\tempty"
    assert isinstance(again, sources.BadItem)
