"""A text on each line."""

import pytest

from eagc_jax.gcd import sources


def test_lines_are_items_and_blank_ones_are_none(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufefffirst\r\n\r\n  \nzweite Größe\nlast".encode())
    records = sources.open_source(path, require_labels=False)
    assert [records.items[i] for i in range(3)] == ["first", "zweite Größe", "last"]
    assert list(records.ids) == ["0", "3", "4"]
    assert (records.kind, records.num_known, records.class_names) == ("text", 0, ())
    assert records.labels.tolist() == [-1, -1, -1]
    path.write_text("one\ntwo\n")
    assert list(sources.open_source(path, require_labels=False).ids) == ["0", "1"]


def test_labels_need_a_table(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\n")
    with pytest.raises(
        ValueError, match=r"lines\.txt .* Give a table .* column `label`"
    ):
        sources.open_source(path)


def test_a_line_that_is_not_utf8_and_a_file_without_lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"good\nbad \xff\n")
    with pytest.raises(ValueError, match=r"lines\.txt should be UTF-8 text; line 1 "):
        sources.open_source(path, require_labels=False)
    path.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="should hold a text on each line, found none"):
        sources.open_source(path, require_labels=False)


def test_a_digest_is_of_the_content(tmp_path):
    one, two = tmp_path / "1.txt", tmp_path / "2.csv"
    one.write_text("same\nother\n")
    two.write_text("text\nsame\n")
    first = sources.open_source(one, require_labels=False).items
    second = sources.open_source(two, require_labels=False).items
    assert first.digest(0) == second.digest(0)
    assert first.digest(0) != first.digest(1)
    assert len(first.digest(0)) == 16
