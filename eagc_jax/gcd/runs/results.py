"""One folder per run of a program: configuration, metrics and the report.

Every file appears whole or not at all, and a folder with files of someone else's is
refused.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

import eagc_jax
from eagc_jax import _files
from eagc_jax._files import JsonObject
from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.audit import step_rows
from eagc_jax.gcd.runs.folder import CONFIG_FILE, MARK, OURS
from eagc_jax.gcd.runs.history import RunHistory

if TYPE_CHECKING:
    from eagc_jax.gcd.settings.running import RunSettings

METRICS_CSV = "metrics.csv"
METRICS_JSONL = "metrics.jsonl"


def open_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Makes the folder, or takes it over if this package wrote it.

    Call it before the work, so that hours are not spent on results without a place.

    Args:
      path: of the folder.

    Returns:
      The path.

    Raises:
      FileExistsError: it is a file, or a folder that holds something else.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     open_folder(pathlib.Path(parent) / "demo").is_dir()
      True
    """
    folder = run_folder.check(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe_settings(runs: Mapping[str, RunSettings], **more: object) -> JsonObject:
    """What a reader needs to repeat runs, as plain values for JSON.

    Args:
      runs: by name, each run's `eagc_jax.gcd.settings.running.RunSettings`: its method,
        training with the seed, aggregator, coordination and reference model.
      **more: further entries, e.g. the name of the data.

    Returns:
      The runs, versions of what took part, the device, and `more`.
    """
    names = ("jax", "optax", "flax", "numpy", "scikit-learn")
    versions = {name: importlib.metadata.version(name) for name in names}
    versions |= {"eagc_jax": eagc_jax.__version__, "python": platform.python_version()}
    device = jax.devices()[0]
    return {
        MARK: OURS,
        **more,
        "runs": {name: run.describe() for name, run in runs.items()},
        "versions": versions,
        "device": f"{device.platform}: {device.device_kind}",
    }


def write_results(
    folder: pathlib.Path,
    settings: Mapping[str, object],
    runs: Mapping[str, RunHistory],
    baselines: Mapping[str, Accuracy],
) -> None:
    """Writes config.json, metrics.csv, metrics.jsonl and steps.jsonl.

    Both metrics files have one line per run and finished epoch; a baseline has one
    line, with epoch 0. The CSV holds numbers for a spreadsheet: accuracies, losses, GDC
    (mean over the epoch's measured steps), SOC and, as means over layers, gates (or an
    aggregator's weights, or projections) and the ratio of the first two objectives'
    energies (geometric). The JSONL holds them for every layer. What was not evaluated or
    measured is null, or an empty cell.

    steps.jsonl has one line per run and step, the audit trail: losses, what was measured
    of the raw gradients, and every decision. See `eagc_jax.gcd.runs.audit.step_rows`.

    A run is replayed from config.json: it holds each run's training settings with the
    seed, its method, aggregator, coordination and reference model.
    `eagc_jax.gcd.settings.running.read_runs` reads them, and `RunSettings.start` with the
    same data, backbone and pooled views gives a run with the same steps.jsonl, bit for
    bit with the same versions on the same kind of device.

    Args:
      folder: from `open_folder`.
      settings: from `describe_settings`.
      runs: histories by name; they may be short or empty.
      baselines: accuracies by name.
    """
    config = json.dumps(settings, indent=2, allow_nan=False)
    _files.write_text(folder / CONFIG_FILE, config + "\n")
    rows = [_row(name, 0, accuracy, {}) for name, accuracy in baselines.items()] + [
        row for history in runs.values() for row in epoch_rows(history)
    ]
    lines = "".join(f"{to_json(row)}\n" for row in rows)
    _files.write_text(folder / METRICS_JSONL, lines)
    _files.write_text(folder / METRICS_CSV, to_csv([flat(row) for row in rows]))
    steps = (to_json(row) for history in runs.values() for row in step_rows(history))
    _files.write_text(folder / "steps.jsonl", "".join(f"{line}\n" for line in steps))


def epoch_rows(history: RunHistory, first: int = 0) -> Iterator[JsonObject]:
    """One row per finished epoch, of plain values, by layer what was decided by layer.

    Args:
      history: of a run.
      first: how many epochs are left out.
    """
    deviations = history.gradient_deviation[first:]
    for index, epoch in list(enumerate(history.epochs))[first:]:
        losses = {name: values[index] for name, values in history.losses.items()}
        row = _row(history.name, epoch, history.accuracy[index], losses)
        row["gdc"] = _at(deviations, index - first)
        row["soc"] = _at(history.subspace_overlap, index)
        row["seconds"] = round(history.seconds[index], 3)
        row["step_seconds"] = round(_at(history.step_seconds, index), 6)
        if history.decision and index < len(history.decided):
            row[history.decision] = _by_layer(history, history.decided[index])
        if index < len(history.energy):
            row["energy"] = _by_layer(history, history.energy[index])
        yield row


def _at(values: list[float], index: int) -> float:
    """NaN where a history was made without them."""
    return values[index] if index < len(values) else float("nan")


def _row(
    name: str, epoch: int, accuracy: Accuracy, losses: Mapping[str, float]
) -> JsonObject:
    row: JsonObject = {"run": name, "epoch": epoch, **accuracy._asdict()}
    return row | {f"loss_{objective}": value for objective, value in losses.items()}


def _by_layer(history: RunHistory, values: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        layer: dict(zip(history.objective_names, column.tolist(), strict=True))
        for layer, column in zip(history.layers, np.asarray(values).T, strict=True)
    }


def to_csv(rows: list[JsonObject], columns: Sequence[str] | None = None) -> str:
    """Flat rows with a header; or, where the columns are given, without one."""
    found = columns or list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, found, lineterminator="\n")
    if columns is None:
        writer.writeheader()
    # null: an empty cell
    writer.writerows({key: _without_nan(x) for key, x in row.items()} for row in rows)
    return buffer.getvalue()


def flat(row: JsonObject) -> JsonObject:
    """One number for all layers, of what a row of `epoch_rows` has by layer."""
    found = {key: value for key, value in row.items() if not isinstance(value, dict)}
    for kind in ("gate", "weight", "projection"):
        for name, value in _means(row.get(kind, {})).items():
            found[f"{kind}_{name}"] = value
    if "energy" not in row:
        return found
    energies = np.array([list(layer.values())[:2] for layer in row["energy"].values()])
    # A layer that only one objective reaches has no ratio.
    energies = energies[(energies > 0).all(axis=1)]
    if len(energies):
        ratios = np.log(energies[:, 0]) - np.log(energies[:, 1])
        found["energy_ratio"] = float(np.exp(ratios.mean()))
    return found


def _means(by_layer: dict[str, dict[str, float]]) -> dict[str, float]:
    """By objective, over layers."""
    values = list(by_layer.values())
    names = values[0] if values else ()
    return {n: float(np.mean([layer[n] for layer in values])) for n in names}


def to_json(value: object) -> str:
    """As one line. JSON has no NaN: a share over no image at all becomes null."""
    return json.dumps(_without_nan(value), allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
