"""A real process is killed again and again; in the end nothing shows it.

The program is `tests/gcd/surviving.py`. All its processes are forks of one that has
imported it, and what they compile is kept in a folder.
"""

import contextlib
import multiprocessing
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.gcd import clouds, surviving

ROOT = pathlib.Path(__file__).parents[3]
LIMIT = 240  # seconds without a sign of life
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([surviving.__name__])


class Process:
    """One that trains; what it says as it comes."""

    def __init__(self, folder, *arguments):
        self.checkpoints = folder / "checkpoints"
        self._errors = folder / "stderr"
        self._said, theirs = FORKS.Pipe(duplex=False)
        program = surviving.main
        self.own = FORKS.Process(target=program, args=(folder, theirs, *arguments))
        self.own.start()
        theirs.close()

    def said(self):
        """The next thing; None where the process has ended."""
        assert self._said.poll(LIMIT), "no sign of life"
        try:
            return self._said.recv()
        except EOFError:
            return None

    def end(self):
        """Its exit status and what it complained of."""
        self.own.join(LIMIT)
        return self.own.exitcode, self._errors.read_text()

    def is_writing(self):
        return any(self.checkpoints.glob(".*.partial"))


@contextlib.contextmanager
def running(*arguments):
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.own.kill()
        process.own.join()


def wait_for_a_moment(process, rng, how):
    """In a write, or some epochs after the start; False where the process has ended."""
    times, lines = [], rng.integers(1, 3)  # "begins", and at most an epoch
    while len(times) < lines:
        if process.said() is None:
            return False
        times.append(time.monotonic())
    if how == "time":
        if len(times) > 1:  # between now and two epochs later
            time.sleep(rng.uniform(0, 2 * (times[-1] - times[-2])))
        return True
    limit = time.monotonic() + LIMIT
    while not process.is_writing():
        if not process.own.is_alive() or time.monotonic() > limit:
            return False
    time.sleep(rng.choice([0, 0.001, 0.01]))
    return True


def survive(tmp_path, kind, kills, epochs, *how):
    """Kills a run so many times; it then finds itself the same as one that is left."""
    rng = np.random.default_rng(0)
    for moment in rng.permutation(["write", "time"] * (kills // 2)):
        with running(tmp_path, kind, epochs, *how) as process:
            assert wait_for_a_moment(process, rng, moment), process.end()
            process.own.kill()
            assert process.end()[0] == -signal.SIGKILL
    with running(tmp_path, kind, epochs, *how) as process:
        while process.said() is not None:
            pass
        status, complaints = process.end()
    assert status == 0, complaints
    assert "damaged" not in complaints


def test_a_run_killed_twice_ends_with_the_same_bits(tmp_path):
    survive(tmp_path, "nothing", 2, 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "blocks"])
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path, kind):
    survive(tmp_path, kind, 10, 32, "chunked")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")],
)
def test_who_is_asked_to_end_saves_what_is_over(tmp_path, number, raised):
    with running(tmp_path, "nothing", 1000) as process:
        while process.said() != 3:
            pass
        os.kill(process.own.pid, number)
        last = 3
        while (epoch := process.said()) is not None:
            last = epoch
        status, complaints = process.end()
    assert status not in (0, -signal.SIGKILL)
    assert raised in complaints
    newest = sorted(one.name for one in process.checkpoints.iterdir())[-1]
    assert int(newest) in (last, last + 1)


def discover(folder, *arguments, cache="cache", stop=None):
    """`eagc discover` as a process of its own, in a folder.

    With `stop`, a number and a signal's name, it sends itself that signal as soon as the
    checkpoint of that number is written. A training that the cache has isn't done again.
    """
    program = ["eagc_jax.gcd.cli"] if stop is None else ["tests.gcd.stopping", *stop]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "EAGC_CACHE": str(folder / cache),
    }
    process = subprocess.run(
        [sys.executable, "-m", *program, "discover", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return process.returncode, process.stderr


@pytest.mark.slow
def test_a_discovery_killed_and_interrupted_ends_with_the_same_files(tmp_path):
    data = clouds.write(tmp_path)
    given = [str(data), "--num-classes", "4", "--no-rehearsal", "--out"]
    assert discover(tmp_path, *given, "whole", cache="another")[0] == 0
    run = tmp_path / "killed"
    for number in ("1", "8", "15"):  # in the warm start, at its end, in training
        stop = number, "SIGKILL"
        status, errors = discover(tmp_path, *given, "killed", stop=stop)
        assert status == -signal.SIGKILL, errors
        assert not (run / "summary.json").exists()
    status, errors = discover(tmp_path, *given, "killed", stop=("18", "SIGINT"))
    assert status == 130, errors
    command = shlex.split(errors.split("To go on:")[1].strip())
    assert command[:2] == ["eagc", "discover"]
    status, errors = discover(tmp_path, *command[2:])
    assert status == 0, errors
    for name in ("assignment.parquet", "assignment.csv", "model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (run / "checkpoints").exists()
