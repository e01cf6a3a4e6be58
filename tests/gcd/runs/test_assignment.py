"""assignment.csv and assignment.parquet, names of clusters, and a run's folder."""

import csv
import errno
import json
import os

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs import results
from eagc_jax.gcd.runs.assignment import COLUMNS, Assignment, name_clusters

NAMES = ('a "quoted", name', "two\nlines", "carriage\rreturn", "<b>bold</b>")


def assignment(ids=("x\ny.jpg", 'say "hi".jpg', "ü, ö.jpg", "d.jpg")):
    return Assignment(
        ids,
        labels=np.array([0, -1, 2, -1]),
        clusters=np.array([0, 1, 2, 4]),
        names=(*NAMES, "novel-1"),
        num_known=4,
        probability=np.array([0.25, 1.0, 1 / 3, 1e-9], np.float32),
        margin=np.array([-0.5, 0.125, 2.0, 0.0], np.float32),
        distance=np.array([0.5, 0.25, 1.0, 0.0], np.float32),
    )


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_an_item_and_names_survive(tmp_path):
    assignment().write(tmp_path)
    text = (tmp_path / "assignment.csv").read_bytes().decode()
    assert text.startswith("id,label,assigned,is_known,probability,margin,")
    rows = rows_of(tmp_path / "assignment.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == list(assignment().ids)
    assert [row["label"] for row in rows] == [NAMES[0], "", NAMES[2], ""]
    assert [row["assigned"] for row in rows] == [*NAMES[:3], "novel-1"]
    assert [row["is_known"] for row in rows] == ["True"] * 3 + ["False"]
    numbers = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(numbers, assignment().probability, rtol=1e-5)  # 6 digits


def test_parquet_says_the_same(tmp_path):
    assignment().write(tmp_path)
    found = pyarrow.parquet.read_table(tmp_path / "assignment.parquet")
    assert tuple(found.column_names) == COLUMNS
    found = found.to_pydict()
    assert found["id"] == list(assignment().ids)
    assert found["label"] == [NAMES[0], None, NAMES[2], None]
    assert found["assigned"] == assignment().assigned
    assert found["is_known"] == [True, True, True, False]
    np.testing.assert_array_equal(
        np.float32(found["margin"]), np.float32([-0.5, 0.125, 2, 0])
    )


def test_what_was_written_is_read(tmp_path):
    assignment().write(tmp_path)
    found = Assignment.read(tmp_path)
    assert (found.ids, found.names, found.num_known) == (
        assignment().ids,
        assignment().names,  # also the one that nobody is in
        4,
    )
    for name in ("labels", "clusters", "probability", "margin", "distance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(assignment(), name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace_schema_metadata({}), "can't be read as an assignment"),
        (lambda t: t.drop_columns(["cluster"]), "column cluster is missing"),
        (lambda t: t.replace_schema_metadata({b"eagc_jax": b"{"}), "parquet: "),
        (
            lambda t: t.replace_schema_metadata(
                {b"eagc_jax": b'{"names": ["a"], "num_known": 1}'}
            ),
            "can't be read|must be in",
        ),
    ],
)
def test_another_table_is_refused(tmp_path, change, message):
    assignment().write(tmp_path)
    path = tmp_path / "assignment.parquet"
    table = change(pyarrow.parquet.read_table(path))
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(ValueError, match=message):
        Assignment.read(tmp_path)
    path.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match="can't be read as an assignment"):
        Assignment.read(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="was not found"):
        Assignment.read(tmp_path)


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    assignment(ids=("a\udcff", "b", "c", "d")).write(tmp_path)
    assert rows_of(tmp_path / "assignment.csv")[0]["id"] == "a\\udcff"
    found = pyarrow.parquet.read_table(tmp_path / "assignment.parquet")
    assert found["id"][0].as_py() == "a\\udcff"


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one entry for each of 1 items, got 4"):
        assignment(ids=("only one",))


@given(st.lists(st.integers(0, 5), max_size=30), st.sets(st.integers(1, 4), max_size=2))
def test_novel_names_go_by_size_and_are_nobodys(clusters, taken):
    known = [f"novel-{i}" for i in sorted(taken)]
    clusters = np.array(clusters, int)
    order, names = name_clusters(known, clusters, 6)
    assert sorted(order.tolist()) == list(range(6))
    assert list(names[: len(known)]) == known
    assert len(set(names)) == 6
    sizes = np.bincount(clusters, minlength=6)[order[len(known) :]]
    assert (np.diff(sizes) <= 0).all()
    numbers = [int(name.removeprefix("novel-")) for name in names[len(known) :]]
    assert numbers == sorted(numbers)


def test_the_typical_item_is_the_nearest():
    found = assignment()
    assert found.typical(4) == 3
    assert found.sizes.tolist() == [1, 1, 1, 0, 1]


def test_a_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="did not write"):
        run_folder.check(tmp_path)
    with pytest.raises(FileExistsError, match=r"thesis\.txt is a file"):
        run_folder.check(tmp_path / "thesis.txt")
    (tmp_path / "settings.json").write_text('{"written_by": "someone"}')
    with pytest.raises(FileExistsError), run_folder.whole(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["settings.json", "thesis.txt"]


@pytest.mark.parametrize("name", ["settings.json", "config.json"])
def test_a_run_of_either_kind_is_ours(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"written_by": "eagc_jax"}))
    assert results.open_folder(tmp_path) == tmp_path
    (tmp_path / "old.csv").write_text("kept")
    with run_folder.whole(tmp_path) as partial:
        (partial / name).write_text("new")
    assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "old.csv").read_text() == "kept"


def test_a_run_that_fails_leaves_nothing(tmp_path):
    run = tmp_path / "run"

    def write_half():
        with run_folder.whole(run) as partial:
            (partial / "assignment.csv").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"run.*No space left.*make room"):
        write_half()
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), run_folder.whole(run):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_run_appears_at_once(tmp_path):
    run = tmp_path / "deep" / "run"
    with run_folder.whole(run) as partial:
        (partial / "settings.json").write_text("{}")
        assert not run.exists()
    assert [file.name for file in run.iterdir()] == ["settings.json"]
    assert os.listdir(run.parent) == ["run"]


def test_a_place_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="no folder that you may write to"):
        run_folder.check(tmp_path / "file" / "run")
