"""Tables give back what was written, and say which row or column is wrong."""

import csv
import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import BadItem
from tests.gcd.sources.pictures import png, tree

ROWS = [
    {"text": "my card is lost", "label": "card"},
    {"text": 'a "quoted", long\nquestion', "label": ""},
    {"text": "NA", "label": "transfer"},
    {"text": "  où est mon argent ?", "label": " "},
]


def write(path, rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_any(path, rows):
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    return write(path, rows, "\t" if ".tsv" in path.name else ",")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.CSV"])
def test_texts_with_some_labels(tmp_path, name):
    records = sources.open_source(write_any(tmp_path / name, ROWS))
    assert (records.name, records.kind) == ("t", "text")
    assert [records.items[i] for i in range(4)] == [row["text"] for row in ROWS]
    assert list(records.ids) == ["0", "1", "2", "3"]
    assert records.labels.tolist() == [0, -1, 1, -1]
    assert records.labels.dtype == np.int32
    assert records.class_names == ("card", "transfer")
    assert (records.num_known, records.truth, records.parts) == (2, None, None)


def test_paths_are_relative_to_the_table(tmp_path, monkeypatch):
    tree(tmp_path / "d", {"in/a.png": png(), "b.png": png((0, 0, 0))})
    rows = [
        {"path": "in/a.png", "label": "x"},
        {"path": str(tmp_path / "d" / "b.png"), "label": "y"},
        {"path": "gone.png", "label": ""},
    ]
    table = write(tmp_path / "d" / "t.csv", rows)
    monkeypatch.chdir(tmp_path)
    records = sources.open_source("d/t.csv")
    assert records.kind == "image"
    assert records.items[0].shape == (4, 6, 3)
    assert records.items[1].max() == 0
    with pytest.raises(BadItem, match=r"gone\.png: there is no such file"):
        records.items[2]
    write(table, [{"path": "in/a.jpg", "label": "x"}, *rows])
    with pytest.raises(BadItem, match=r"row 0 of .*there is no file .*relative to"):
        sources.open_source(table)
    assert len(sources.open_source(table, on_bad_item="skip")) == 4


def test_ids_split_and_truth(tmp_path):
    rows = [
        {"n": "a7", "s": "train", "text": "1", "label": "b", "true": "b"},
        {"n": "a2", "s": "test", "text": "2", "label": "", "true": "z"},
        {"n": "a3", "s": "train", "text": "3", "label": "a", "true": "a"},
        {"n": "a1", "s": "test", "text": "4", "label": "", "true": "c"},
    ]
    names = {"id_column": "n", "split_column": "s", "truth_column": "true"}
    for name in ("t.csv", "t.parquet"):
        path = write_any(tmp_path / name, rows)
        records = sources.open_source(path, **names)
        assert list(records.ids) == ["a7", "a2", "a3", "a1"]
        assert records.parts.tolist() == ["train", "test", "train", "test"]
        # Known classes in order, then the others that are true somewhere.
        assert records.class_names == ("a", "b", "c", "z")
        assert records.num_known == 2
        assert records.labels.tolist() == [1, -1, 0, -1]
        assert records.truth.tolist() == [1, 3, 0, 2]
        assert records.old_mask.tolist() == [True, False, True, False]
        plain = sources.open_source(path, truth_column="true")
        np.testing.assert_array_equal(plain.labels, records.labels)
        assert list(plain.ids) == ["0", "1", "2", "3"]


def test_labels_that_are_numbers_in_parquet(tmp_path):
    texts = ["a", "b", "c", "d"]
    for labels in (
        pa.array([7, None, 10, None], pa.int64()),
        pa.array([7.0, np.nan, 10.0, None]),
        pa.array(["7", None, "10", ""]).dictionary_encode(),
    ):
        table = pa.table({"text": texts, "label": labels, "id": [4, 3, 2, 1]})
        pa.parquet.write_table(table, tmp_path / "t.parquet")
        records = sources.open_source(tmp_path / "t.parquet")
        assert records.class_names == ("10", "7")
        assert records.labels.tolist() == [1, -1, 0, -1]
        assert list(records.ids) == ["4", "3", "2", "1"]


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=9)


@given(
    rows=st.lists(
        st.tuples(FIELDS, st.text('ab ",é\n<', max_size=4)), min_size=1, max_size=20
    ),
    name=st.sampled_from(["t.csv", "t.tsv", "t.parquet"]),
)
def test_a_table_gives_back_what_was_written(tmp_path_factory, rows, name):
    path = tmp_path_factory.mktemp("tables") / name
    write_any(path, [{"text": text, "label": label} for text, label in rows])
    records = sources.open_source(path, require_labels=False, on_bad_item="skip")
    assert list(records.items.strings) == [text for text, _ in rows]
    names = (*records.class_names, "")  # -1 is the last
    assert [names[c] for c in records.labels] == [label.strip() for _, label in rows]
    assert list(records.class_names) == sorted(set(names) - {""})


def content(text):
    return text.encode() if isinstance(text, str) else text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read as a table: Empty CSV file"),
        ("text,label\n", "should hold a row for each item, found none"),
        (
            "words,label\na,b\n",
            "should have a column 'text' or 'path', found 'words', 'l",
        ),
        ("text,class\na,b\n", "should have a column 'label', found 'text', 'class'"),
        ("text;label\na;b\n", "divided by commas"),
        ("text,text,label\na,b,c\n", "name each column once, found 'text'"),
        ("text,path,label\na,b,c\n", "found both 'text' and 'path'"),
        ("text,label\na,b\nc\n", r"can't be read as a table: .*Row #3: Expected 2"),
        (
            b"text,label\na,b\nc\xe9,d\n",
            r"UTF-8 text; column 'text' of row 1 \(from 0\)",
        ),
        ("text,label\na,\nb,\n", "labels for some rows, found none"),
        ("text,label\na,x\nb,y\n", "all 2 rows have one"),
        ("text,label\na,x\nb,\n", "two known classes, found only x"),
        ("text,label,id\na,x,1\nb,y,2\nc,,1\n", "rows 0 and 2 .* both have '1'"),
        (
            "text,label,id\na,x,1\nb,y,\nc,,1\n",
            "an id in each row of column 'id', row 1",
        ),
        (
            "text,label\na,x\n ,y\nc,\n",
            "row 1 of .*: column 'text' is empty, in 1 of 3",
        ),
    ],
)
def test_a_wrong_table_is_explained(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content(text))
    with pytest.raises(ValueError, match=message) as caught:
        sources.open_source(path)
    assert "t.csv" in str(caught.value)


def test_both_columns_are_told_apart_by_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,path,label\na,b,x\nc,d,y\ne,f,\n")
    assert sources.open_source(path, path_column=None).items[1] == "c"
    skip = sources.open_source(path, text_column=None, on_bad_item="skip")
    assert skip.items.path(1).endswith("d")


def test_empty_texts_are_left_to_the_reader_when_skipping(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,label\na,x\n" ",y\nc,\n')
    records = sources.open_source(path, on_bad_item="skip")
    assert len(records) == 3
    with pytest.raises(BadItem, match="row 1: the text is empty"):
        records.items[1]


def test_the_truth_must_be_there_for_every_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label,true\na,x,x\nb,y,y\nc,,\n")
    with pytest.raises(
        ValueError, match=r"true class of each row in column 'true', row 2"
    ):
        sources.open_source(path, truth_column="true")
    with pytest.raises(ValueError, match="should have a column 'truth', found"):
        sources.open_source(path, truth_column="truth")


def test_a_column_that_was_named_must_be_there(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,y\nc,\n")
    for option in ("text", "path", "label", "id", "split", "truth"):
        with pytest.raises(
            ValueError, match="should have a column 'mine', found 'text'"
        ):
            sources.open_source(
                path, **{f"{option}_column": "mine"}, require_labels=False
            )
        assert sources.open_source(path, **{"id_column": None, "split_column": None})


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\na,x\r\nb,y\r\nc,\r\n")
    assert sources.open_source(path).labels.tolist() == [0, 1, -1]


def test_damaged_parquet_and_columns_of_lists(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"t\.parquet can't be read as a Parquet file"):
        sources.open_source(path)
    table = pa.table({"text": ["a", "b"], "label": [["x"], ["y"]]})
    pa.parquet.write_table(table, path)
    with pytest.raises(
        ValueError, match=r"column 'label' of .* text or numbers, found l"
    ):
        sources.open_source(path)


def test_control_characters_of_a_table_are_escaped_in_messages(tmp_path):
    path = tmp_path / "t\nt.csv"
    path.write_text("te\x1bxt,<b>\na,b\n")
    with pytest.raises(ValueError, match="should have a column") as caught:
        sources.open_source(path)
    assert str(caught.value).isprintable()
