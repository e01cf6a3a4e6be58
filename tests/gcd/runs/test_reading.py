"""Files of a run's folder are only read as data, and not without bounds."""

import json

import pytest

from eagc_jax.gcd.runs.reading import inside, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "should hold a JSON object, found list"),
        (b"{", "can't be read as JSON"),
        (b'{"a": "\xff"}', "can't be read as JSON"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "can't be read as JSON"),
        (b" " * 1001, "at most 1,000 bytes, found 1,001"),
    ],
)
def test_what_is_no_object_is_refused(tmp_path, content, message):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    most = 1000 if len(content) < 2000 else 2**20
    with pytest.raises(ValueError, match=message):
        read_json(path, most=most)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_json(tmp_path)


def test_an_object_is_read(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"ü": [1, None]}), encoding="utf-8")
    assert read_json(path) == {"ü": [1, None]}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_paths_outside_are_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="outside of it"):
        inside(tmp_path / "run", name)


def test_paths_inside_are_resolved(tmp_path):
    assert inside(tmp_path, "a/../b") == tmp_path.resolve() / "b"
