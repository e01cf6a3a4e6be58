"""Files appear whole or not at all."""

import os
import stat

import numpy as np
import pytest

from eagc_jax import _files


def test_writes_text_bytes_and_what_a_writer_writes(tmp_path):
    _files.write_text(tmp_path / "a.txt", "é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n\n"
    _files.write_bytes(str(tmp_path / "b"), b"\x00\xff")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    _files.write_with(tmp_path / "c.npz", lambda file: np.savez(file, x=np.arange(3)))
    with np.load(tmp_path / "c.npz") as found:
        np.testing.assert_array_equal(found["x"], [0, 1, 2])
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b", "c.npz"]


def test_makes_the_folder_and_replaces_a_file(tmp_path):
    path = tmp_path / "new" / "deep" / "file"
    _files.write_text(path, "old and longer")
    _files.write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_others_may_read_what_temporary_files_hide(tmp_path, umask):
    before = os.umask(umask)
    try:
        _files.write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    _files.write_text(path, "old")

    def writer(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        _files.write_with(path, writer)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_of_that_name_stays(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        _files.write_text(tmp_path / "taken", "text")
    assert os.listdir(tmp_path) == ["taken"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    steps = []

    def noted(name):
        real = getattr(os, name)

        def call(*arguments):
            steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    noted("fsync")
    noted("replace")
    _files.write_text(tmp_path / "file", "text")
    assert steps[:2] == ["fsync", "replace"]


def test_names_as_long_as_the_system_takes(tmp_path):
    name = "n" * 250
    _files.write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]
