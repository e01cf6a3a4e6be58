"""A run's logs grow by an epoch at a time, and are right after a restart."""

import csv
import json
import struct
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.runs.logs import EVENTS, Logs
from eagc_jax.gcd.runs.results import write_results
from eagc_jax.gcd.training.measures import Trace

NAN = float("nan")


def history(epochs):
    """Of so many, with a decision for two layers; the first was not evaluated."""
    found = RunHistory("mine", decision="gate", layers=["a", "b"])
    for epoch in range(1, epochs + 1):
        found.epochs.append(epoch)
        known = NAN if epoch == 1 else 0.5 + epoch / 100
        found.accuracy.append(Accuracy(known, known, NAN))
        for k, name in enumerate(found.objective_names):
            found.losses.setdefault(name, []).append(k + 1 / epoch)
        found.decided.append(np.array([[1, 0.5], [0.25, 2]], np.float32) * epoch)
        found.energy.append(np.array([[2, 8], [2, 2]], np.float32))
        found.seconds.append(epoch / 8)
        found.step_seconds.append(0.5)
        found.subspace_overlap.append(0.75)
        found.traces.append(Trace(*[np.array([NAN, epoch / 4], np.float32)] * 9))
    return found


def texts(folder):
    return [(folder / name).read_text() for name in ("metrics.csv", "metrics.jsonl")]


def at_once(folder, epochs):
    folder.mkdir()
    write_results(folder, {}, {"mine": history(epochs)}, {})
    return texts(folder)


@pytest.fixture(autouse=True)
def without_steps(monkeypatch):
    monkeypatch.setattr("eagc_jax.gcd.runs.results.step_rows", lambda history: ())


def test_epoch_by_epoch_is_what_is_written_at_once(tmp_path):
    logs = Logs(tmp_path)
    for epochs in range(4):
        logs.write(history(epochs))
        rows = [json.loads(line) for line in texts(tmp_path)[1].splitlines()]
        assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    logs.write(history(3))  # nothing new
    assert texts(tmp_path) == at_once(tmp_path / "other", 3)
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second, _ = csv.DictReader(file)
    assert (first["all"], second["all"], second["new"]) == ("", "0.52", "")
    assert float(second["gate_supervised"]) == 1.5  # of 2 and 1
    assert float(second["energy_ratio"]) == pytest.approx(2)


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_a_restart_leaves_no_epoch_out_and_none_twice(tmp_path, there):
    Logs(tmp_path).write(history(3))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"run": "mine", "epo')  # as it was killed
    logs = Logs(tmp_path)
    for epochs in range(there, 5):
        logs.write(history(epochs))
    assert texts(tmp_path) == at_once(tmp_path / "other", 4)


def test_a_column_that_comes_later_is_taken_in(tmp_path):
    logs, few = Logs(tmp_path), history(1)
    few.energy[0][:] = 0  # no ratio
    logs.write(few)
    more = history(2)
    more.energy[0][:] = 0
    logs.write(more)
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second = (row["energy_ratio"] for row in csv.DictReader(file))
    assert first == ""
    assert float(second) == pytest.approx(2)


def events(folder):
    """(step, tag, value), or (step, "start", None) where what follows replaces."""
    for path in sorted(
        (folder / EVENTS).iterdir(), key=lambda one: one.stat().st_mtime_ns
    ):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(
                content[place + 12 : place + 12 + length]
            )
            place += length + 16
            if event.HasField("session_log"):
                yield event.step, "start", None
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_events_for_tensorboard(tmp_path):
    with Logs(tmp_path, tensorboard=True) as logs:
        logs.write(history(1))
        logs.write(history(2))
    found = list(events(tmp_path))
    assert found[0] == (1, "start", None)
    assert [(s, v) for s, tag, v in found if tag == "loss/unsupervised"] == [
        (1, 2),
        (2, 1.5),
    ]
    assert [s for s, tag, _ in found if tag == "accuracy/all"] == [2]  # no NaN
    assert {tag.split("/")[0] for _, tag, _ in found} == {
        *("start", "loss", "accuracy", "gate", "epoch")
    }


def test_without_the_library_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    Logs(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"eagc_jax\[tensorboard\]"):
        Logs(tmp_path, tensorboard=True)
