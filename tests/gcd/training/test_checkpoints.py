"""A run that is saved goes on to the same bits; what is not its own is refused."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest

from eagc_jax.gcd.backbones.cache.arrays import keep_array
from eagc_jax.gcd.runs.locking import locked
from eagc_jax.gcd.sources import ArrayItems
from eagc_jax.gcd.training import chunks, parallel
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.checkpoints import (
    Checkpoints,
    arrays,
    facts,
    finished,
    manifest,
)
from eagc_jax.gcd.training.checkpoints.manifest import Place
from tests.gcd import surviving
from tests.gcd.surviving import assert_same, found, start


@pytest.fixture(scope="module")
def whole():
    """What runs of each kind end with that nobody interrupts."""
    made = {}

    def of(kind):
        if kind not in made:
            run = start(kind)
            list(run)
            made[kind] = found(run)
        return made[kind]

    return of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of a run of features alone after two epochs."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    leave_after(start("nothing", folder), 2)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def leave_after(run, epochs):
    for epoch in run:
        if epoch == epochs:
            break


SLOW = pytest.mark.slow
KINDS = ["nothing", *(pytest.param(one, marks=SLOW) for one in ("adapter", "blocks"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_to_the_same_bits(kind, whole, tmp_path):
    leave_after(start(kind, tmp_path), 1)
    run = start(kind, tmp_path)
    assert run.history.epochs == [1]
    leave_after(run, 2)
    rest = list(start(kind, tmp_path))
    assert rest[0] == 3
    again = start(kind, tmp_path)  # over, and as it was
    assert not list(again)
    assert_same(found(again), whole(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_has_ended_is_recalled(kind, whole, tmp_path):
    run = start(kind)
    assert not run.recall(tmp_path)
    list(run)
    run.remember(tmp_path)
    again = start(kind)
    assert again.recall(tmp_path)
    assert not list(again)
    assert_same(found(again), whole(kind))


def test_only_the_same_is_recalled(tmp_path):
    run = start("nothing")
    with pytest.raises(ValueError, match="0 of 3 epochs are over: iterate over it"):
        run.remember(tmp_path)
    list(run)
    run.remember(tmp_path, "these pictures")
    assert start("nothing").recall(tmp_path, "these pictures")
    assert not start("nothing").recall(tmp_path, "others")
    assert not start("nothing", epochs=2).recall(tmp_path, "these pictures")
    assert not start("nothing", seed=1).recall(tmp_path, "these pictures")


def test_a_kept_training_of_another_length_is_left_out(tmp_path):
    run = start("nothing")
    keep_array(tmp_path, finished.key_of(run, ""), np.zeros(3, np.uint8))
    with pytest.warns(UserWarning, match="a kept training is left out: should be"):
        assert not run.recall(tmp_path)
    assert run.history.epochs == []


def test_the_newest_are_kept(saved):
    names = sorted(one.name for one in saved.iterdir())
    assert names == [".in_use", "00000001", "00000002"]


def test_so_many_are_kept(tmp_path):
    list(start("nothing", Checkpoints(tmp_path, keep=2)))
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == [".in_use", "00000002", "00000003"]


def test_every_second_epoch_and_the_last_are_saved(tmp_path):
    run = start("nothing", Checkpoints(tmp_path, every=2))
    numbers = []
    for _ in run:
        numbers.append(sum(one.name.isdigit() for one in tmp_path.iterdir()))
    assert numbers == [0, 1, 1]
    assert start("nothing", tmp_path).history.epochs == [1, 2, 3]


def test_what_was_not_due_is_saved_when_the_loop_is_left(tmp_path):
    leave_after(start("nothing", Checkpoints(tmp_path, seconds=1000)), 2)
    assert start("nothing", tmp_path).history.epochs == [1, 2]


class Stop(Exception):
    pass


def stop_in_epoch(run, place, monkeypatch):
    """Ends a run as soon as a checkpoint within an epoch was written, the only one."""
    real = run._keeper._write

    def write(run, now, inside):
        if now == place:
            real(run, now, inside)
            raise Stop

    monkeypatch.setattr(run._keeper, "_write", write)
    with pytest.raises(Stop):
        list(run)


@pytest.mark.parametrize(
    "place",
    [
        (True, 1, 1),
        *(pytest.param(x, marks=SLOW) for x in [(False, 0, 2), (False, 1, 0)]),
    ],
)
def test_inside_of_an_epoch_too(place, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    place = Place(*place)
    run = start("adapter", Checkpoints(tmp_path, within=0))
    stop_in_epoch(run, place, monkeypatch)
    run = start("adapter", tmp_path)
    assert run._inside.place == place
    assert len(run.history.epochs) == place.training * place.epoch
    list(run)
    assert_same(found(run), whole("adapter"))


def test_parameters_lie_on_the_mesh_again(tmp_path):
    mesh = parallel.data_mesh()
    expected = start("nothing", mesh=mesh)
    list(expected)
    leave_after(start("nothing", tmp_path, mesh=mesh), 2)
    run = start("nothing", tmp_path, mesh=mesh)
    for leaf in jax.tree.leaves(run._carry):
        assert len(leaf.sharding.device_set) == 8
        assert leaf.is_fully_replicated
    list(run)
    assert_same(found(run), found(expected))


# ---------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "config.seed (0 there, 1 here)"),
        ({"epochs": 5}, "config.epochs (3 there, 5 here)"),
    ],
)
def test_other_settings_are_named(saved, changes, named):
    with pytest.raises(ValueError, match="another run") as caught:
        start("nothing", saved, **changes)
    assert named in str(caught.value)


def test_other_methods_and_data_are_named(saved, monkeypatch):
    run = surviving.RUNS["nothing"]
    other = dataclasses.replace(
        run, method=dataclasses.replace(run.method, head_hidden=9)
    )
    monkeypatch.setitem(surviving.RUNS, "nothing", other)
    with pytest.raises(
        ValueError, match=r"method.head_hidden \(8 there, 9 here\), param"
    ):
        start("nothing", saved)
    monkeypatch.undo()
    records = surviving.clouds()
    records.items.array[3] += 1
    monkeypatch.setattr(surviving, "clouds", lambda: records)
    with pytest.raises(ValueError, match=r"content of the items .* features"):
        start("nothing", saved)
    fewer = dataclasses.replace(records, **first(records, 95))
    monkeypatch.setattr(surviving, "clouds", lambda: fewer)
    with pytest.raises(ValueError, match=r"items \(96 there, 95 here\)"):
        start("nothing", saved)


def first(records, number):
    return {
        "items": ArrayItems(records.items.array[:number]),
        "ids": records.ids[:number],
        "labels": records.labels[:number],
        "truth": records.truth[:number],
    }


def test_another_aggregator_is_noticed(saved, monkeypatch):
    run = surviving.RUNS["nothing"]
    other = Aggregation("upgrad", {"rescale": "mean"})
    monkeypatch.setitem(
        surviving.RUNS, "nothing", dataclasses.replace(run, aggregator=other)
    )
    with pytest.raises(ValueError, match=r"another run: aggregator \("):
        start("nothing", saved)


def test_another_version_is_named(saved, monkeypatch):
    monkeypatch.setattr(facts, "package_version", lambda: "9.9")
    with pytest.raises(ValueError, match=r"another version.*version \(0.* 9.9 here\)"):
        start("nothing", saved)


def test_another_device_is_said_and_does(saved, copied, monkeypatch):
    real = facts.versions
    monkeypatch.setattr(facts, "versions", lambda mesh: {**real(mesh), "jax": "0.1"})
    with pytest.warns(UserWarning, match=r"round otherwise.*jax \("):
        run = start("nothing", copied)
    assert run.history.epochs == [1, 2]


def test_a_folder_in_use_is_refused(copied):
    with (
        locked(copied),
        pytest.raises(BlockingIOError, match="in use by this process"),
    ):
        start("nothing", copied)
    start("nothing", copied)  # freed


def test_a_run_that_another_process_went_on_with(copied):
    first, second = start("nothing", copied), start("nothing", copied)
    list(second)
    with pytest.raises(ValueError, match="has changed since this run was made"):
        list(first)


def test_an_unwritable_folder_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoints can't be written to .*file"):
        start("nothing", tmp_path / "file" / "checkpoints")


# ---------------------------------------------------------------------------
# What is damaged
# ---------------------------------------------------------------------------


def array_of(folder, name="carry.params.head.classifier.kernel"):
    return folder / "arrays" / name / "0.0"


def cut(folder):
    path = array_of(folder)
    path.write_bytes(path.read_bytes()[:-4])


def flip(folder):
    path = array_of(folder)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def lose(folder):
    array_of(folder).unlink()


def lose_manifest(folder):
    (folder / "checkpoint.json").unlink()


def cut_manifest(folder):
    path = folder / "checkpoint.json"
    path.write_text(path.read_text()[:-100])


def alter_manifest(folder):
    path = folder / "checkpoint.json"
    path.write_text(
        path.read_text().replace('"config.seed": "0"', '"config.seed": "1"')
    )


def nest_manifest(folder):
    (folder / "checkpoint.json").write_text('{"a":' * 100_000)


def link_out(folder):
    path = array_of(folder)
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def link_manifest(folder):
    path = folder / "checkpoint.json"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def add(folder):
    (folder / "arrays" / "more.pkl").write_bytes(b"\x80\x04.")


DAMAGES = [cut, flip, lose, lose_manifest, cut_manifest, alter_manifest, nest_manifest]
DAMAGES += [link_out, link_manifest, add]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_the_one_before_serves_where_the_last_is_damaged(copied, damage, whole):
    damage(copied / "00000002")
    with pytest.warns(
        UserWarning, match=r"00000002 is damaged.*going on from 1 epochs"
    ):
        run = start("nothing", copied)
    assert run.history.epochs == [1]
    list(run)
    assert_same(found(run), whole("nothing"))


def test_all_damaged_is_an_error_and_nothing_is_lost(copied):
    for name in ("00000001", "00000002"):
        cut(copied / name)
    before = sorted(copied.rglob("*"))
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read; remove"):
        start("nothing", copied)
    assert sorted(copied.rglob("*")) == before


def test_a_link_to_a_checkpoint_is_none(copied, tmp_path):
    (copied / "00000002").rename(tmp_path / "elsewhere")
    (copied / "00000002").symlink_to(tmp_path / "elsewhere")
    assert start("nothing", copied).history.epochs == [1]


def test_what_a_killed_process_left_is_cleared(copied):
    (copied / ".00000003.partial").mkdir()
    (copied / ".00000003.partial" / "half").write_text("half")
    (copied / ".00000001.old.partial").mkdir()
    start("nothing", copied)
    assert sorted(one.name for one in copied.iterdir())[0] == ".in_use"
    assert len(list(copied.iterdir())) == 3


def resealed(folder, change):
    """A stranger's checkpoint: what it says of itself fits what it is."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["digest"]
    change(content)
    path.unlink()
    content["files"] = {
        name: [size, manifest._digest_of(folder / name)]
        for name, size in sorted(arrays.file_sizes(folder).items())
    }
    content["digest"] = manifest._digest(content)
    path.write_text(json.dumps(content))


def say_huge(folder, content):
    path = array_of(folder).with_name(".zarray")
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"shape": [10**6, 10**6]}))


def compress(folder, content):
    path = array_of(folder).with_name(".zarray")
    header = json.loads(path.read_text())
    zstd = {"id": "zstd", "level": 1}
    path.write_text(json.dumps(header | {"compressor": zstd}))


def be_elsewhere(folder, content):
    content["place"]["epoch"] = content["epochs"] = 10**9


def be_negative(folder, content):
    content["place"]["epoch"] = -1


def be_text(folder, content):
    content["facts"] = "text"


def other_key(folder, content):
    path = folder / "arrays" / "key" / "0"
    path.write_bytes(b"\x07" * path.stat().st_size)


CRAFTED = [say_huge, compress, be_elsewhere, be_negative, be_text, other_key]


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda one: one.__name__)
def test_crafted_checkpoints_are_left_out(copied, craft, monkeypatch):
    folder = copied / "00000002"
    resealed(folder, lambda content: craft(folder, content))
    with pytest.warns(UserWarning, match="00000002 is damaged"):
        run = start("nothing", copied)
    assert run.history.epochs == [1]


def test_nothing_of_an_oversized_checkpoint_is_read(copied, monkeypatch):
    with open(copied / "00000002" / "arrays" / "large", "wb") as file:
        file.truncate(10**11)  # sparse
    with pytest.warns(UserWarning, match=r"at most .* bytes, found 100,000"):
        assert start("nothing", copied).history.epochs == [1]


# ---------------------------------------------------------------------------
# The disk
# ---------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_and_nothing_is_lost(tmp_path, whole, monkeypatch):
    run = start("nothing", tmp_path)
    real = arrays.write

    def full(folder, found):
        real(folder, found)
        if run.history.epochs == [1, 2]:
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(arrays, "write", full)
    with pytest.raises(OSError, match="last one, after 1 epochs of training, is") as e:
        list(run)
    assert e.value.errno == errno.ENOSPC
    assert "make room" in str(e.value)
    assert not list(tmp_path.glob(".*partial"))
    monkeypatch.undo()
    run = start("nothing", tmp_path)
    assert run.history.epochs == [1]
    list(run)
    assert_same(found(run), whole("nothing"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KB, and a way to make it larger."""

    def mount(*options):
        return subprocess.run(["mount", *options, tmp_path], capture_output=True)

    if mount("-t", "tmpfs", "-o", "size=300k", "tmpfs").returncode:
        pytest.skip("only root may mount; the test before this one pretends to")
    try:
        yield tmp_path, lambda: mount("-o", "remount,size=64m")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("looked", [True, False], ids=["looked", "not looked"])
def test_a_disk_that_is_really_full(small_disk, looked, whole, monkeypatch):
    folder, enlarge = small_disk
    run = start("nothing", folder)
    if not looked:  # others fill the disk meanwhile
        monkeypatch.setattr(run._keeper, "_check_room", lambda needed: None)
    with pytest.raises(OSError, match="make room there, and start") as caught:
        list(run)
    assert caught.value.errno == errno.ENOSPC
    saved = len(run.history.epochs) - 1
    assert not list(folder.glob(".*partial"))
    enlarge()
    run = start("nothing", folder)
    assert len(run.history.epochs) == saved
    list(run)
    assert_same(found(run), whole("nothing"))


def test_room_is_looked_for_before_anything_is_written(tmp_path, monkeypatch):
    run = start("nothing", tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"are free.*none is there yet: make room"):
        list(run)
    assert os.listdir(tmp_path) == [".in_use"]


def test_digests_of_large_arrays_look_at_rows_that_are_spread(monkeypatch):
    monkeypatch.setattr(facts, "_WHOLE", 10)
    monkeypatch.setattr(facts, "_SAMPLED", 40)
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    changed = rows.copy()
    changed[0] += 1
    assert facts.digest(rows) == facts.digest(rows.copy())
    assert (
        len({facts.digest(rows), facts.digest(changed), facts.digest(rows[:19])}) == 3
    )
