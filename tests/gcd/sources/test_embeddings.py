"""Embeddings from files: memory-mapped, with their labels, and what is wrong in them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import BadItem

MATRIX = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
LABELS = ["b", "", "a", "", ""]


def check(records):
    assert records.kind == "embedding"
    assert records.labels.tolist() == [1, -1, 0, -1, -1]
    assert records.class_names == ("a", "b")
    for row in range(5):
        assert records.items[row].dtype == np.float32
        np.testing.assert_array_equal(records.items[row], MATRIX[row])


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


@pytest.mark.parametrize("name", ["labels.npy", "e.labels.npy"])
def test_npy_with_labels_beside_it(tmp_path, name):
    np.save(tmp_path / "e.npy", MATRIX)
    np.save(tmp_path / name, np.array(LABELS))
    records = sources.open_source(tmp_path / "e.npy")
    check(records)
    assert is_mapped(records.items.array)
    assert list(records.ids) == ["0", "1", "2", "3", "4"]


def test_npy_with_a_table_beside_it(tmp_path):
    np.save(tmp_path / "e.npy", MATRIX)
    lines = [f"{label},i{row},t" for row, label in enumerate(LABELS)]
    (tmp_path / "labels.csv").write_text("\n".join(["label,id,true", *lines]))
    records = sources.open_source(tmp_path / "e.npy", truth_column="true")
    check_labels = records.labels.tolist()
    assert check_labels == [1, -1, 0, -1, -1]
    assert list(records.ids) == ["i0", "i1", "i2", "i3", "i4"]
    assert records.class_names == ("a", "b", "t")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path, save, order):
    path = tmp_path / "e.npz"
    matrix = np.asarray(MATRIX, order=order)
    save(path, labels=np.array(LABELS), embeddings=matrix, ids=np.arange(5) + 7)
    records = sources.open_source(path)
    check(records)
    assert list(records.ids) == ["7", "8", "9", "10", "11"]
    assert is_mapped(records.items.array) == (save is np.savez)


def test_npz_of_one_matrix_and_whole_numbers_as_labels(tmp_path):
    path = tmp_path / "e.npz"
    np.savez(path, f=MATRIX, label=np.array([3, -1, 10, -1, -1]), other=np.ones(2))
    records = sources.open_source(path)
    assert records.class_names == ("10", "3")
    assert records.labels.tolist() == [1, -1, 0, -1, -1]
    np.savez(path, f=MATRIX, label=np.array([3.0, np.nan, 10, np.nan, np.nan]))
    np.testing.assert_array_equal(sources.open_source(path).labels, records.labels)
    np.savez(path, f=MATRIX, g=MATRIX)
    with pytest.raises(ValueError, match=r"a member `embeddings`, or just one .* f, g"):
        sources.open_source(path)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.large_list(pa.float16())],
)
def test_parquet(tmp_path, kind):
    rounded = MATRIX.astype(np.float16).astype(np.float32)
    table = pa.table(
        {
            "id": list("vwxyz"),
            "embedding": pa.array(list(rounded.astype(np.float16)), kind),
            "text": ["kept for people"] * 5,
            "label": LABELS,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=2)
    records = sources.open_source(tmp_path / "e.parquet")
    assert records.labels.tolist() == [1, -1, 0, -1, -1]
    assert list(records.ids) == list("vwxyz")
    assert records.items.array.dtype == np.float32
    np.testing.assert_array_equal(records.items.array, rounded)


def test_two_widths_are_named_by_row(tmp_path):
    lists = [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]
    table = pa.table({"embedding": lists, "label": ["a", "b", "", ""]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=2)
    with pytest.raises(ValueError, match=r"row 0 has 2 values, row 2 \(from 0\) has 1"):
        sources.open_source(tmp_path / "e.parquet")
    table = pa.table({"embedding": [[1.0], None], "label": ["a", ""]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) has 0"):
        sources.open_source(tmp_path / "e.parquet", require_labels=False)
    ragged = np.empty(2, object)
    ragged[:] = [np.ones(2), np.ones(3)]
    np.save(tmp_path / "e.npy", ragged, allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"e\.npy .* rows of different widths are saved"
    ):
        sources.open_source(tmp_path / "e.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["e.npy", "e.npz", "e.parquet"])
def test_numbers_that_are_none_are_named_by_row(tmp_path, value, name, monkeypatch):
    from eagc_jax.gcd.sources import embeddings

    monkeypatch.setattr(embeddings, "_BLOCK", 24)  # two rows at a time
    bad = MATRIX.copy()
    bad[3, 1] = value
    path = tmp_path / name
    if name == "e.npy":
        np.save(path, bad)
        np.save(tmp_path / "labels.npy", np.array(LABELS))
    elif name == "e.npz":
        np.savez(path, embeddings=bad, label=np.array(LABELS))
    else:
        table = pa.table({"embedding": list(bad), "label": LABELS})
        pyarrow.parquet.write_table(table, path)
    with pytest.raises(BadItem, match=rf"row 3 of .*{name}: .* NaN or infinity"):
        sources.open_source(path)
    records = sources.open_source(path, on_bad_item="skip")
    np.testing.assert_array_equal(records.items[2], bad[2])
    with pytest.raises(BadItem, match=rf"row 3 of .*{name}"):
        records.items[3]


def test_wrong_files_are_explained(tmp_path):
    path = tmp_path / "e.npy"
    for content, message in (
        (np.zeros(4), r"a matrix, a row for each item, found shape \(4,\)"),
        (np.zeros((2, 3, 4)), r"found shape \(2, 3, 4\)"),
        (np.zeros((0, 4)), r"found shape \(0, 4\)"),
        (np.array([["a"]]), "one number a column, found <U1"),
    ):
        np.save(path, content)
        with pytest.raises(ValueError, match=message):
            sources.open_source(path)
    np.save(path, MATRIX)
    with pytest.raises(ValueError, match="labels for some rows, found none"):
        sources.open_source(path)
    assert sources.open_source(path, require_labels=False).num_known == 0
    np.save(tmp_path / "labels.npy", np.array(LABELS[:4]))
    with pytest.raises(ValueError, match=r"5 embeddings and 4 values of 'label'"):
        sources.open_source(path)
    np.save(tmp_path / "labels.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"labels\.npy should hold one text or number"):
        sources.open_source(path)
    np.save(tmp_path / "labels.npy", np.full(5, 0.5))
    with pytest.raises(ValueError, match="whole numbers, found fractions"):
        sources.open_source(path)
    np.savez(tmp_path / "o.npz", x=MATRIX, label=np.array([{}] * 5, object))
    with pytest.raises(ValueError, match=r"member label of .*o\.npz can't be read"):
        sources.open_source(tmp_path / "o.npz")
    for name in ("e.npy", "e.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(ValueError, match=name):
            sources.open_source(tmp_path / name)
