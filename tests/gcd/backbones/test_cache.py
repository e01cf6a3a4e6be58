"""The cache of features: killed writers, two writers, damage, a full disk, upkeep."""

import errno
import io
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd.backbones import cache, embed
from eagc_jax.gcd.backbones.cache import FeatureStore, shards
from tests.gcd.backbones import embedding_program as program
from tests.gcd.backbones import fakes

ROOT = Path(__file__).parents[3]


def start(*arguments):
    command = [sys.executable, "-m", program.__name__, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def embedded_again(folder, count=program.COUNT):
    """How many had to be computed; the features are right."""
    array = fakes.rows(count)
    found = embed(fakes.records(array), fakes.Linear(), cache=folder)
    np.testing.assert_array_equal(found.features, array @ fakes.MATRIX)
    return found.embedded


def filled(folder, count=program.COUNT, shard_rows=10):
    """Four shards; their paths."""
    for first in range(0, count, shard_rows):
        some = fakes.records(fakes.rows(count)[first : first + shard_rows])
        embed(some, fakes.Linear(), cache=folder)
    return files_of(folder)


def test_a_program_killed_while_it_writes(tmp_path):
    killed = start(tmp_path, "stop")
    assert killed.stdout.readline() == "half of it is written\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    unfinished = list(tmp_path.rglob("*.part"))
    assert len(unfinished) == 1
    # Two shards of a batch each were written whole; the third never got its name.
    assert embedded_again(tmp_path) == program.COUNT - 2 * program.BATCH
    assert embedded_again(tmp_path) == 0
    assert cache.prune(tmp_path).paths == ()  # a program may be writing it just now
    long_ago = time.time() - 4000
    os.utime(unfinished[0], (long_ago, long_ago))
    assert cache.prune(tmp_path).paths == tuple(unfinished)
    assert embedded_again(tmp_path) == 0


def test_two_programs_at_once(tmp_path):
    folder, flag = tmp_path / "cache", tmp_path / "flag"
    both = [start(folder, "together", flag) for _ in range(2)]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    flag.touch()
    assert [one.wait() for one in both] == [0, 0]
    for one in both:
        one.stdout.close()
    assert embedded_again(folder) == 0
    assert not list(folder.rglob("*.part"))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def truncate_to_nothing(path):
    os.truncate(path, 0)


def lose_last_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def flip_a_feature(path):
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    flip(path, header)


def flip_a_digest(path):
    flip(path, -1)


def flip_the_header(path):
    flip(path, 8)


def make_header_enormous(path):
    content = bytearray(path.read_bytes())
    content[:8] = (2**62).to_bytes(8, "little")
    path.write_bytes(content)


def write_another_format(path):
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, {"format": "eagc_jax cache 0"})


def write_another_array(path):
    cache.files.write(path, {"something": np.ones(3)}, {})


def write_another_width(path):
    digests = np.array([b"%016d" % 1])
    shards.write_shard(path, digests, np.ones((1, 2), np.float32), {})


DAMAGES = [
    truncate, truncate_to_nothing, lose_last_byte, flip_a_feature, flip_a_digest,
    flip_the_header, make_header_enormous, write_another_format, write_another_array,
    write_another_width,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_shard_is_named_and_computed_again(tmp_path, damage):
    paths = filled(tmp_path)
    damage(paths[1])
    with pytest.warns(UserWarning, match=paths[1].name) as caught:
        assert embedded_again(tmp_path) == 10
    assert len(caught) == 1


def test_a_shard_that_a_copy_replaces_is_not_computed_again(tmp_path):
    first = filled(tmp_path)
    copy = first[0].with_name("0" * 32 + ".safetensors")
    copy.write_bytes(first[0].read_bytes())
    flip_a_feature(copy)  # found first, as files are read in the order of their names
    with pytest.warns(UserWarning, match=copy.name):
        assert embedded_again(tmp_path) == 0


class FullDisk(io.FileIO):
    """The first bytes find room, the rest does not."""

    def write(self, content):
        super().write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(tmp_path, monkeypatch):
    filled(tmp_path)
    before = files_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache.files, "open", FullDisk, raising=False)
        with pytest.raises(OSError, match="No space left on device") as caught:
            cache.files.write(tmp_path / "features" / "one", {"a": np.ones(99)}, {})
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)
    assert "EAGC_CACHE" in str(caught.value)
    assert files_of(tmp_path) == before


def test_embedding_to_a_full_disk(tmp_path, monkeypatch):
    filled(tmp_path, 20)
    before = files_of(tmp_path)

    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match=r"could not be written \(No space left") as e:
            embedded_again(tmp_path)
    assert e.value.errno == errno.ENOSPC
    assert files_of(tmp_path) == before
    assert embedded_again(tmp_path) == 20


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="could not be written"):
        embedded_again(tmp_path / "file")


@given(data=st.data())
def test_positions_against_a_dictionary(data):
    """Few different digests, so that shards share some."""
    digest = st.binary(max_size=1).map(lambda start: start.ljust(16, b"\0"))
    written = data.draw(st.lists(st.lists(digest, min_size=1), max_size=4))
    asked = data.draw(st.lists(digest))
    values = {one: hash(one) % 1000 for one in itertools.chain(asked, *written)}
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder, "tiny", "none", 1)
        for shard in written:
            features = np.array([[values[one]] for one in shard], np.float32)
            store.add(np.array(shard, "S16"), features)
            store.flush()
        found = store.find(np.array(asked, "S16"))
        known = set(itertools.chain(*written))
        assert (found >= 0).tolist() == [one in known for one in asked]
        expected = [values[one] for one in asked if one in known]
        assert store.take(found[found >= 0]).ravel().tolist() == expected


def test_digests_with_zeros_are_told_apart(tmp_path):
    zeros = np.zeros((4, 16), np.uint8)
    zeros[1, 0], zeros[2, 15], zeros[3, :8] = 1, 1, 1
    digests = zeros.view("S16")[:, 0]
    store = FeatureStore(tmp_path, "tiny", "none", 1)
    store.add(digests, np.arange(4, dtype=np.float32)[:, None])
    store.flush()
    again = FeatureStore(tmp_path, "tiny", "none", 1)
    found = again.take(again.find(digests[::-1]))
    np.testing.assert_array_equal(found.ravel(), [3, 2, 1, 0])
    assert again.find(np.array([b"\0" * 14 + b"\1"])).tolist() == [-1]


def test_what_was_pruned_meanwhile_is_not_made_up(tmp_path):
    store = FeatureStore(tmp_path, "tiny", "none", 1)
    store.add(np.array([b"a" * 16]), np.ones((1, 1), np.float32))
    store.flush()
    cache.prune(tmp_path, keep_bytes=0)
    with pytest.warns(UserWarning, match="pruned by another program"):
        positions = store.find(np.array([b"a" * 16]))
    with pytest.raises(LookupError, match="run this one again"):
        store.take(positions)


def test_shards_are_written_when_they_are_large_or_it_took_long(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cache.store.time, "monotonic", lambda: clock[0])
    store = FeatureStore(tmp_path, "tiny", "none", 1)

    def number_after(seconds, row):
        clock[0] = seconds
        store.add(np.array([b"%016d" % row]), np.ones((1, 1), np.float32))
        return len(files_of(tmp_path))

    assert [number_after(19, 0), number_after(20, 1)] == [0, 1]
    assert number_after(2000, 2) == 2
    assert [number_after(2100, 3), number_after(2110, 4)] == [2, 3]  # a twentieth


def test_an_array_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(6, dtype=np.int32).reshape(2, 3)

    for _ in range(2):
        found = cache.cached_array(tmp_path, "six", make)
        np.testing.assert_array_equal(found, make())
        assert found.dtype == np.int32
        made.pop()
    assert made == [1]
    assert not found.flags.writeable
    assert cache.cached_array(tmp_path, "seven", lambda: np.ones(7)).shape == (7,)
    assert cache.cached_array(None, "six", lambda: np.ones(7)).shape == (7,)


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.float32(2), np.array([True])])
def test_arrays_of_any_shape(tmp_path, array):
    for _ in range(2):
        found = cache.cached_array(tmp_path, "one", lambda: array)
        np.testing.assert_array_equal(found, array, strict=True)


@pytest.mark.parametrize("damage", [truncate, flip_a_feature, write_another_array])
def test_a_damaged_array_is_made_again(tmp_path, damage):
    cache.cached_array(tmp_path, "six", lambda: np.arange(6))
    path = files_of(tmp_path)[0]
    damage(path)
    with pytest.warns(UserWarning, match=path.name):
        found = cache.cached_array(tmp_path, "six", lambda: np.arange(6))
    assert found.tolist() == list(range(6))
    assert cache.cached_array(tmp_path, "six", lambda: 1 / 0).tolist() == list(range(6))


def test_the_default_folder(monkeypatch):
    for name in ("EAGC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.default_folder() == Path.home() / ".cache" / "eagc_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.default_folder() == Path("/caches/eagc_jax")
    monkeypatch.setenv("EAGC_CACHE", "/here")
    assert cache.default_folder() == Path("/here")


@pytest.fixture
def three(tmp_path):
    """Entries: linear, used three days ago; another, two; an array, one."""
    embed(fakes.records(fakes.rows(10)), fakes.Linear(), cache=tmp_path)
    embed(fakes.records(fakes.rows(6)), fakes.Linear("another"), cache=tmp_path)
    cache.cached_array(tmp_path, "table", lambda: np.ones(5))
    entries = cache.describe(tmp_path)
    days = {"linear": 3, "another": 2, "table": 1}
    for entry in entries:
        for path in files_of(tmp_path):
            if path.stat().st_size == entry.bytes:
                used = time.time() - 86400 * days[entry.backbone]
                os.utime(path, (used, used))
    return tmp_path


def names(folder):
    return [entry.backbone for entry in cache.describe(folder)]


def test_describe(three):
    array, another, linear = cache.describe(three)
    assert (linear.kind, linear.backbone, linear.preparation) == (
        "features", "linear", "none",
    )  # fmt: skip
    assert (linear.items, another.items, array.items) == (10, 6, 5)
    assert (array.kind, array.backbone) == ("array", "table")
    total = sum(path.stat().st_size for path in files_of(three))
    assert linear.bytes + another.bytes + array.bytes == total
    assert time.time() - linear.last_used == pytest.approx(3 * 86400, abs=100)
    assert linear.damaged == ()


def test_using_it_is_noted(three):
    assert names(three) == ["table", "another", "linear"]
    embed(fakes.records(fakes.rows(3)), fakes.Linear(), cache=three)
    assert names(three) == ["linear", "table", "another"]
    for path in files_of(three):  # times differ by a clock's tick, or not at all
        earlier = path.stat().st_mtime - 10
        os.utime(path, (earlier, earlier))
    cache.cached_array(three, "table", lambda: 1 / 0)
    assert names(three) == ["table", "linear", "another"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, ["table", "another", "linear"]),
        ({"older_than": 2.5 * 86400}, ["table", "another"]),
        ({"older_than": 0}, []),
        ({"keep_bytes": 10**6}, ["table", "another", "linear"]),
        ({"keep_bytes": 0}, []),
        ({"backbone": "lin"}, ["table", "another"]),
        ({"backbone": "linear", "older_than": 4 * 86400}, ["table", "another", "linear"]),
        ({"backbone": "linear", "keep_bytes": 0}, ["table", "another"]),
    ],
)  # fmt: skip
def test_prune(three, options, left):
    before = {path: path.stat().st_size for path in files_of(three)}
    would = cache.prune(three, dry_run=True, **options)
    assert set(files_of(three)) == set(before)
    assert cache.prune(three, **options) == would
    assert names(three) == left
    assert set(would.paths) == set(before) - set(files_of(three))
    assert would.bytes == sum(before[path] for path in would.paths)


def test_prune_keeps_as_many_bytes(three):
    array, another, _ = cache.describe(three)
    cache.prune(three, keep_bytes=array.bytes + another.bytes)
    assert names(three) == ["table", "another"]


def test_prune_removes_damaged_files(three):
    damaged = max(files_of(three), key=lambda path: path.stat().st_size)
    truncate(damaged)
    entry = [entry for entry in cache.describe(three) if entry.damaged]
    assert [one.damaged for one in entry] == [(damaged,)]
    assert entry[0].backbone == "unknown"
    assert cache.prune(three).paths == (damaged,)
    assert not damaged.parent.exists()  # nothing else was in it


def test_prune_touches_only_what_the_cache_wrote(three):
    shard = files_of(three / "features")[0]
    others = [
        three / "notes.txt",
        three / "features" / "notes.txt",
        three / "arrays" / "notes.safetensors",
        three / "arrays" / f"{'g' * 32}.safetensors",
        three / "arrays" / "mine" / f"{'a' * 32}.safetensors",
        shard.with_name("thesis.part"),
        three / f"{'a' * 32}.safetensors",
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    link = three / "arrays" / f"{'b' * 32}.safetensors"
    link.symlink_to(others[0])
    cache.prune(three, keep_bytes=0, older_than=0)
    assert files_of(three) == sorted([*others, link])


@pytest.mark.parametrize(
    ("form", "left"), [("eagc_jax cache 2", ["of another version"]), ("mine", [])]
)
def test_files_of_another_format_are_not_damaged(tmp_path, form, left):
    path = tmp_path / "arrays" / f"{'a' * 32}.safetensors"
    path.parent.mkdir()
    safetensors.numpy.save_file({"array": np.ones(3)}, path, {"format": form})
    assert names(tmp_path) == left
    assert cache.prune(tmp_path).paths == ()
    assert len(cache.prune(tmp_path, keep_bytes=0).paths) == len(left)


@pytest.mark.parametrize("name", ["keep_bytes", "older_than"])
def test_prune_refuses_negative_numbers(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        cache.prune(tmp_path, **{name: -1})
