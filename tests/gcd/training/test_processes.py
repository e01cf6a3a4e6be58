"""Two processes train what one trains, say where they differ, and don't wait for ever.

They are real ones, started here, that meet on the loopback interface
(`tests/gcd/one_process.py`). JAX sums over their CPU devices by Gloo.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.chunks import _chunks
from eagc_jax.gcd.training.epoch import run_steps
from tests.gcd.one_process import found, tiny_run

LIMIT = 300  # seconds until processes are killed; they need some twenty
EPS = float(np.finfo(np.float32).eps)
ROOT = pathlib.Path(__file__).parents[3]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def processes(folder, commands):
    """Popen objects, with their errors in files; killed at the end, whatever happens."""
    # Compiled as here: XLA_FLAGS of tests/conftest.py are in the environment.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    running = []
    try:
        for index, command in enumerate(commands):
            with (
                open(folder / f"stdout{index}", "w") as output,
                open(folder / f"stderr{index}", "w") as errors,
            ):
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command],
                        cwd=ROOT,
                        env=environment,
                        stdout=output,
                        stderr=errors,
                    )
                )
        yield running
    finally:
        for one in running:
            one.kill()
            one.wait()


def run_all(folder, commands):
    """Exit statuses and what each process said; fails where one doesn't end."""
    limit = time.monotonic() + LIMIT
    with processes(folder, commands) as running:
        late = []
        for index, one in enumerate(running):
            try:
                one.wait(max(limit - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                late.append(index)
        statuses = [one.poll() for one in running]
    said = [(folder / f"stderr{i}").read_text() for i in range(len(commands))]
    assert not late, f"processes {late} did not end\n" + "\n---\n".join(said)
    return statuses, said


def train_tiny(target, devices, change=()):
    """Two processes of `tests/gcd/one_process.py`."""
    program = ["tests.gcd.one_process", f"127.0.0.1:{free_port()}", "2"]
    rest = [str(devices), str(target), *change]
    return run_all(target.parent, [[*program, str(i), *rest] for i in range(2)])


def assert_same_training(left, right):
    """Equal to the rounding of float32.

    Sums over rows are taken in another order, which moves a gradient by some eps of its
    largest entries. Six steps of a learning rate of 0.1 with momentum 0.9 add up to a
    factor below six; losses near 8 carry the largest error, some eps of 8.
    """
    assert left.keys() == right.keys()
    for name in left:
        if name == "predictions":
            np.testing.assert_array_equal(left[name], right[name])
            continue
        size = max(float(np.max(np.abs(right[name]))), 1.0)
        np.testing.assert_allclose(
            left[name], right[name], rtol=0, atol=32 * EPS * size, err_msg=name
        )


@pytest.fixture(scope="module")
def alone():
    """One process, one device."""
    run = tiny_run(None)
    list(run)
    return found(run)


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint(tmp_path, alone):
    target = tmp_path / "run.npz"
    for _ in range(2):
        assert not target.exists()
        statuses, said = train_tiny(target, 1, ["saved"])
        assert statuses == [0, 0], "\n---\n".join(said)
    with np.load(target) as stored:
        assert_same_training(dict(stored), alone)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path, alone):
    target = tmp_path / "run.npz"
    statuses, said = train_tiny(target, 1)
    assert statuses == [0, 0], "\n---\n".join(said)
    with np.load(target) as stored:
        assert_same_training(dict(stored), alone)


@pytest.mark.slow
def test_eight_devices_of_one_process_train_it_too(alone):
    run = tiny_run(parallel.data_mesh())
    list(run)
    assert_same_training(found(run), alone)
    # Every device holds the parameters, and its own rows of the images' tokens.
    for leaf in jax.tree.leaves(run._carry.params):
        assert leaf.sharding.is_fully_replicated
    (tokens,) = run._whole._kept
    assert len({str(s.index) for s in tokens.addressable_shards}) == 8
    # And computes a part of the epoch; what is not of rows is done by all.
    assert flops(run) < 0.5 * flops(tiny_run(None))


def flops(run):
    key, labels = jax.random.key(0), run.records.labels
    chunk = next(_chunks(run._recipe, run._inputs, labels, key))
    arguments = run._recipe, run._graphdef, run._carry, chunk, jnp.float32(0)
    lowered = run_steps.lower(*arguments, run._constants)
    return lowered.compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_two_processes_with_four_devices_each(tmp_path, alone):
    target = tmp_path / "run.npz"
    statuses, said = train_tiny(target, 4)
    assert statuses == [0, 0], "\n---\n".join(said)
    with np.load(target) as stored:
        assert_same_training(dict(stored), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("config", "config.learning_rate (process 0: 0.1, 1: 0.05)"),
        ("data", "data (process 0: "),
        ("backbone", "backbone (process 0: "),
        ("aggregator", "aggregator (process 0: "),
    ],
)
def test_processes_that_differ_say_in_what(tmp_path, change, named):
    target = tmp_path / "run.npz"
    statuses, said = train_tiny(target, 1, [change])
    assert all(statuses), statuses
    for text in said:
        assert f"they differ in {named}" in text, text
    assert not target.exists()


@pytest.mark.slow
def test_a_lost_process_ends_the_other(tmp_path):
    """Not at once: after the seconds without a sign of life, ten here."""
    target = tmp_path / "run.npz"
    statuses, said = train_tiny(target, 1, ["lost"])
    assert statuses[1] == 3
    assert statuses[0] not in (0, None), said[0]
    assert not target.exists()


def test_a_batch_that_cannot_be_divided_is_refused():
    mesh = parallel.data_mesh()
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 8"):
        parallel.check_divides("batch_size", 12, mesh)


def test_starting_needs_all_three_arguments():
    with pytest.raises(ValueError, match="needed together"):
        parallel.start("127.0.0.1:1", 2)


def test_digests_tell_arrays_apart():
    array = np.arange(6.0)
    assert parallel.digest({"a": array}) == parallel.digest({"a": array.copy()})
    others = [{"b": array}, {"a": array.reshape(2, 3)}, {"a": array + 1e-12}]
    others += [{"a": array.astype(np.float32)}, {"a": array, "b": array}, None]
    found = {parallel.digest(tree) for tree in [{"a": array}, *others]}
    assert len(found) == 1 + len(others)
