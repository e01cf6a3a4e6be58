"""A run's folder while the run is made: held, marked, and finished whole."""

import json
import os
import signal
import subprocess
import sys

import pytest

from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.locking import LOCK_FILE, locked

HOLD = """
import sys
from eagc_jax.gcd.runs.locking import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_it_dies(tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert held.stdout.readline() == b"held\n"
        with pytest.raises(
            BlockingIOError, match=f"in use by process {held.pid}: wait"
        ):
            run_folder.in_use(tmp_path).__enter__()
        held.send_signal(signal.SIGKILL)
        held.wait()
        with run_folder.in_use(tmp_path):
            pass
    finally:
        held.kill()
        held.communicate()


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{" * 2000, b'{"pid": "x"}', b"\xff"]
)
def test_a_lock_file_with_anything_in_it(tmp_path, content):
    with locked(tmp_path):
        (tmp_path / LOCK_FILE).write_bytes(content)
        with (
            pytest.raises(BlockingIOError, match="another process"),
            locked(tmp_path),
        ):
            pass


def test_a_lock_on_another_computer_is_named(tmp_path):
    with locked(tmp_path):
        holder = {"pid": 7, "host": "elsewhere\n"}
        (tmp_path / LOCK_FILE).write_text(json.dumps(holder))
        with (
            pytest.raises(BlockingIOError, match=r"process 7 on elsewhere\\n: wait"),
            locked(tmp_path),
        ):
            pass


def test_a_link_instead_of_a_lock_file_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("text")
    (tmp_path / "run" / LOCK_FILE).symlink_to(tmp_path / "mine")
    with (
        pytest.raises(OSError, match=r"could not be written to .*run"),
        run_folder.in_use(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "text"


def test_checkpoints_elsewhere_are_not_written_over(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / "settings.json").write_text('{"written_by": "eagc_jax"}')
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "other")
    with (
        pytest.raises(OSError, match="is a link, to a place that is not this run's"),
        run_folder.in_use(tmp_path / "run", {}),
    ):
        pass
    assert not os.listdir(tmp_path / "other")


def test_what_a_process_killed_at_once_leaves_may_be_taken(tmp_path):
    with run_folder.in_use(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == [LOCK_FILE]
    assert run_folder.check(tmp_path / "run") == tmp_path / "run"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="did not write"):
        run_folder.in_use(tmp_path).__enter__()
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_run_in_progress_is_marked_and_says_how_to_go_on(tmp_path):
    with run_folder.in_use(tmp_path / "run", {"discover": {}}) as folder:
        assert run_folder.is_ours(folder)
        settings = run_folder.to_go_on(folder)
        assert json.loads(settings.read_text())["discover"] == {}
        with run_folder.whole(folder) as partial:
            (partial / "summary.json").write_text("{}")
        run_folder.forget_progress(folder)
    assert run_folder.to_go_on(folder) is None
    assert sorted(os.listdir(folder)) == [LOCK_FILE, "settings.json", "summary.json"]


def finish(folder, text):
    with run_folder.in_use(folder, {"run": text}), run_folder.whole(folder) as partial:
        for name in ("assignment.csv", "settings.json", "summary.json"):
            (partial / name).write_text(
                json.dumps({"written_by": "eagc_jax", "a": text})
            )


def test_a_finished_run_stays_as_it_is_until_the_next_one_is(tmp_path):
    finish(tmp_path / "run", "first")
    before = {p.name: p.read_text() for p in (tmp_path / "run").glob("*.*")}
    with run_folder.in_use(tmp_path / "run", {"run": "second"}):
        after = {p.name: p.read_text() for p in (tmp_path / "run").glob("*.*")}
        assert {**after, LOCK_FILE: ""} == {**before, LOCK_FILE: ""}
        assert "second" in run_folder.to_go_on(tmp_path / "run").read_text()


def try_in(run, text, error):
    with run_folder.in_use(run, {"run": text}):
        assert text in run_folder.to_go_on(run).read_text()
        raise error


@pytest.mark.parametrize(("saved", "kept"), [(True, "first"), (False, "second")])
def test_whose_settings_are_kept_where_another_run_is_refused(tmp_path, saved, kept):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        try_in(run, "first", KeyboardInterrupt)
    if saved:
        (run / "checkpoints" / "training" / "00000001").mkdir(parents=True)
    with pytest.raises(ValueError):  # noqa: PT011
        try_in(run, "second", ValueError)
    for file in (run / "settings.json", run_folder.to_go_on(run)):
        assert kept in file.read_text()


def test_a_summary_is_there_only_with_all_files_of_its_run(tmp_path, monkeypatch):
    finish(tmp_path / "run", "first")
    real = os.replace

    def replace(source, target):
        if target == tmp_path / "run" / "settings.json":
            assert not (tmp_path / "run" / "summary.json").exists()
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path / "run", "second")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "summary.json").exists()
    finish(tmp_path / "run", "second")
    assert "second" in (tmp_path / "run" / "summary.json").read_text()
