"""Files of a run's folder that a stranger made: no code of theirs runs, nothing grows."""

import contextlib
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from eagc_jax.gcd import cli
from eagc_jax.gcd.pipeline import discover
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.runs.discovery import DiscoverSettings
from eagc_jax.gcd.runs.reading import member, read_bytes
from eagc_jax.gcd.runs.reopening import reopen
from eagc_jax.gcd.settings.choices import ClusteringSettings, SourceSettings
from tests.gcd import clouds

MOST = 2**27  # bytes that reading any of it may take


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the clouds, first answer alone."""
    folder = tmp_path_factory.mktemp("made")
    settings = DiscoverSettings(
        SourceSettings(str(clouds.write(folder))),
        clustering=ClusteringSettings(num_classes=4),
        quick=True,
    )
    return discover(settings, out=folder / "run").folder


@pytest.fixture
def run(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "run"))


def refused(run, message):
    """By whoever opens it, in a line that names the file; returns the message."""
    before = pa.total_allocated_bytes()
    with pytest.raises((ValueError, OSError), match=message) as caught:
        reopen(run)
    assert pa.total_allocated_bytes() - before < MOST
    return str(caught.value)


def test_a_run_as_it_was_written_is_opened(run):
    assert len(reopen(run).assignment) == clouds.ROWS


class Code:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


FILES = ["settings.json", "summary.json", "assignment.parquet", "model.json"]
FILES += ["model.safetensors", "rehearsal.json", "decisions.json", "history.json"]


@pytest.mark.parametrize("name", FILES)
def test_no_pickle_is_run(run, tmp_path, name):
    (run / name).write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    refused(run, name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("json")])
@pytest.mark.parametrize(
    "content",
    [
        b'{"discover": ' * 100_000,
        b'{"version": 1, "names": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"discover": 7, "version": "x", "kind": []}',
    ],
    ids=["nested", "nested lists", "other types"],
)
def test_json_of_any_form(run, name, content):
    (run / name).write_bytes(content)
    if name == "summary.json" and content.endswith(b"[]}"):
        reopen(run)  # an object: what it lacks is left out
    else:
        refused(run, name)


@pytest.mark.parametrize("name", [*FILES, "skipped.csv"])
def test_links_to_the_outside_are_refused(run, tmp_path, name):
    content = (run / name).read_bytes() if (run / name).exists() else b"{}"
    (tmp_path / "outside").write_bytes(content)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "outside")
    assert name in refused(run, "found a path outside of it")


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_terabyte_are_not_read(run, name):
    os.truncate(run / name, 2**40) if (run / name).exists() else sparse(run / name)
    refused(run, name)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


def test_a_pipe_is_no_file(run):
    (run / "summary.json").unlink()
    os.mkfifo(run / "summary.json")
    refused(run, "no file")


def test_a_file_with_more_than_it_says(tmp_path):
    if not os.path.exists("/proc/self/smaps"):
        return  # files of no size that have content, on Linux alone
    with pytest.raises(ValueError, match="at most 10 bytes, found 11"):
        read_bytes("/proc/self/smaps", most=10)


def test_a_tensor_that_says_ten_gigabytes(run):
    header = {"centres": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(64)
    (run / "model.safetensors").write_bytes(content)
    refused(run, "model.safetensors")


def test_a_header_that_says_ten_gigabytes(run):
    (run / "model.safetensors").write_bytes((10**10).to_bytes(8, "little") + bytes(64))
    refused(run, "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,reason\n" + b"x" * 200_000 + b",y\n", "skipped.csv: field larger"),
        (b"name\n", "should have the columns id and reason"),
        (b"id,reason\n\xff\x00,\xff\n", None),
    ],
)
def test_skipped_items_of_any_form(run, content, message):
    (run / "skipped.csv").write_bytes(content)
    if message is None:
        assert len(reopen(run).skipped) == 1
    else:
        refused(run, message)


# ---------------------------------------------------------------------------
# Parquet
# ---------------------------------------------------------------------------


def table(rows, **columns):
    """Of a run with so many rows, all equal."""
    zero = pa.array(np.zeros(rows, np.float32))
    found = {
        "id": pa.array(["x"]).take(pa.array(np.zeros(rows, np.int32))),
        "label": pa.nulls(rows, pa.string()),
        **dict.fromkeys(("probability", "margin", "distance"), zero),
        "cluster": pa.array(np.zeros(rows, np.int32)),
        **columns,
    }
    names = json.dumps({"names": ["a"], "num_known": 1}).encode()
    return pa.table(found, metadata={b"eagc_jax": names})


def bomb(path, rows, **options):
    pyarrow.parquet.write_table(table(rows), path, **options)


def test_a_few_bytes_for_very_many_rows(run):
    path = run / "assignment.parquet"
    bomb(path, 10**7)
    assert path.stat().st_size < 10**6
    before = pa.default_memory_pool().max_memory()
    refused(run, "a byte for every row, says 10,000,000 rows")
    assert pa.default_memory_pool().max_memory() == before


@pytest.mark.parametrize("codec", ["zstd", "gzip", "brotli"])
def test_compression_that_can_hide_anything(run, codec):
    bomb(run / "assignment.parquet", 10, compression=codec)
    refused(run, f"compressed by one of SNAPPY, UNCOMPRESSED, found {codec.upper()}")


def test_a_long_text_in_every_row(run, monkeypatch):
    rows, long = 2000, "x" * 10**6
    ids = pa.array([str(i) for i in range(rows)])
    same = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [long])
    given = table(rows, id=ids, label=same)
    path = run / "assignment.parquet"
    pyarrow.parquet.write_table(given, path, store_schema=False)
    del given, same
    assert path.stat().st_size < 2 * 10**5
    monkeypatch.setattr("eagc_jax.gcd.runs.assignment._MOST_BYTES", 10**9)
    refused(run, "at most 1,000,000,000 bytes of text, found 2,000,0")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([1, 2])),
        ("id", pa.array(["a", None])),
        ("cluster", pa.array([0, None], pa.int32())),
        ("cluster", pa.array([[0], [0]], pa.list_(pa.int32()))),
        ("probability", pa.array(["a", "b"])),
        ("label", pa.array(["a", "nobody"])),
    ],
)
def test_columns_of_other_types(run, column, values):
    path = run / "assignment.parquet"
    pyarrow.parquet.write_table(table(2, **{column: values}), path)
    refused(run, "assignment.parquet")


def test_metadata_that_is_nested(tmp_path):
    found = table(2).replace_schema_metadata({b"eagc_jax": b"[" * 100_000})
    pyarrow.parquet.write_table(found, tmp_path / "assignment.parquet")
    with pytest.raises(ValueError, match="can't be read as an assignment"):
        Assignment.read(tmp_path)


@pytest.mark.parametrize("cut", [10, 100, 500])
def test_a_table_that_is_cut(run, cut):
    path = run / "assignment.parquet"
    path.write_bytes(path.read_bytes()[:-cut])
    refused(run, "assignment.parquet can't be read as an assignment")


@pytest.mark.parametrize("place", range(4, 3000, 150))
def test_a_table_with_other_bytes(run, place):
    path = run / "assignment.parquet"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 0xFF
    path.write_bytes(content)
    with contextlib.suppress(ValueError, OSError):  # no crash, no other error
        reopen(run)


def test_the_command_line_says_it_in_a_line(run, capsys):
    (run / "summary.json").write_bytes(b"[" * 100_000)
    assert cli.main(["export", str(run), "--to", "csv"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eagc: ")
    assert said.count("\n") == 1


def test_a_link_within_the_folder_is_fine(tmp_path):
    (tmp_path / "b").write_text("")
    (tmp_path / "a").symlink_to("b")
    assert member(tmp_path, "a") == tmp_path / "a"
