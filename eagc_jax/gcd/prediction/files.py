"""A predictor's files: numbers and plain values alone, read within bounds."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import DTypeLike

from eagc_jax import _files
from eagc_jax.gcd.backbones import weights
from eagc_jax.gcd.methods import Method, Task
from eagc_jax.gcd.prediction.calibration import Calibration
from eagc_jax.gcd.prediction.predictor import BackboneOf, Predictor
from eagc_jax.gcd.prediction.trained import Trained
from eagc_jax.gcd.runs.reading import MEGABYTE, member, read_json
from eagc_jax.gcd.settings.plain import from_plain, to_plain
from eagc_jax.gcd.sources.strings import shown

TENSORS, PLAIN = "model.safetensors", "model.json"
_VERSION = 1
_LARGEST = 4 * 2**30  # bytes of the tensors
_MOST_CLASSES, _MOST_WIDE = 2**20, 2**16
_ANCHORS = ("centres", "seen", "known", "examples")


@dataclasses.dataclass(frozen=True)
class _Rule:
    """`Trained`, without its tensors."""

    method: Method
    task: Task
    unit: bool
    adapter: bool
    hidden: int | None
    leaves: int  # of the method's state


@dataclasses.dataclass(frozen=True)
class _Plain:
    """What model.json holds."""

    version: int
    names: tuple[str, ...]
    examples: tuple[str, ...]
    backbone: BackboneOf
    calibration: Calibration
    flags: bool  # whether anything is flagged: an endless threshold is no JSON
    rule: _Rule | None
    agreement: float
    note: str


def save(predictor: Predictor, folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Writes both files; see `Predictor.save`.

    Raises:
      ValueError: a category was renamed to junk: what is kept is what was discovered.
      OSError: they can't be written.
    """
    plain = json.dumps(to_plain(_described(predictor)), allow_nan=False, indent=1)
    content = safetensors.numpy.save(_tensors(predictor))
    paths = [pathlib.Path(folder, name) for name in (TENSORS, PLAIN)]
    _files.write_bytes(paths[0], content)
    _files.write_text(paths[1], plain + "\n")
    return paths


def load_predictor(folder: str | os.PathLike[str]) -> Predictor:
    """Reads what `Predictor.save` wrote; whoever wrote it, no code of it is run.

    Args:
      folder: of the run.

    Returns:
      The same predictor.

    Raises:
      FileNotFoundError: the run has no model.
      ValueError: a file is damaged, too large, or of another version, or what it says
        does not fit together; the message names the file.

    Examples:
      `load_predictor("run").predict(features).name`
    """
    path, numbers = member(folder, PLAIN), member(folder, TENSORS)
    for one in (path, numbers):
        if not one.is_file():
            raise FileNotFoundError(
                f"{shown(one)} was not found: the folder should be that of a run which "
                "left a model; `eagc discover DATA --out RUN` writes one"
            )
    values = read_json(path, most=64 * MEGABYTE)
    if values.get("version") != _VERSION:
        raise ValueError(
            f"{shown(path)} should be of version {_VERSION}, found "
            f"{shown(repr(values.get('version')))[:40]}: it was written by another "
            "release; discover anew with this one"
        )
    try:
        plain = from_plain(_Plain, values)
        _check_plain(plain)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    tensors = _read_tensors(numbers)
    try:
        return _predictor(plain, tensors)
    except ValueError as error:
        raise ValueError(f"{shown(numbers)}: {error}") from error


def _described(predictor: Predictor) -> _Plain:
    if None in predictor.names:
        raise ValueError("a predictor with names of a person's own can't be saved")
    trained, of = predictor.trained, predictor.calibration
    flags = bool(np.isfinite(of.threshold))
    rule = None
    if trained is not None:
        rule = _Rule(
            trained.method,
            trained.task,
            trained.unit,
            trained.adapter,
            trained.hidden,
            len(trained.state),
        )
    return _Plain(
        _VERSION,
        tuple(map(str, predictor.names)),
        tuple(predictor.example_ids),
        predictor.backbone,
        of if flags else dataclasses.replace(of, threshold=0.0),
        flags,
        rule,
        predictor.agreement,
        predictor.note,
    )


def _tensors(predictor: Predictor) -> dict[str, np.ndarray]:
    found = {
        "centres": predictor.centres,
        "seen": predictor.seen,
        "known": predictor.known,
        "examples": predictor.examples,
        **predictor.blocks,
    }
    trained = predictor.trained
    if trained is not None:
        found |= trained.tensors
        found |= {f"state.{i}": leaf for i, leaf in enumerate(trained.state)}
        if trained.columns is not None:
            found["columns"] = trained.columns
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _check_plain(plain: _Plain) -> None:
    _within("names", len(plain.names), 1, _MOST_CLASSES)
    _within("backbone.width", plain.backbone.width, 1, _MOST_WIDE)
    _within("agreement", plain.agreement, 0, 1)
    numbers = plain.calibration
    for name in ("temperature", "slope", "intercept", "threshold", "false_alarms"):
        value = getattr(numbers, name)
        if not np.isfinite(value):
            raise ValueError(f"calibration.{name} must be finite, got {value}")
    if not numbers.temperature > 0:
        raise ValueError(
            f"calibration.temperature must be positive, got {numbers.temperature}"
        )
    if plain.rule is None:
        return
    task = plain.rule.task
    _within("task.num_classes", task.num_classes, 1, _MOST_CLASSES)
    _within("task.width", task.width, 1, _MOST_WIDE)
    _within("task.num_items", task.num_items, 0, 2**40)
    _within("task.num_known", task.num_known, 0, task.num_classes)
    _within("leaves", plain.rule.leaves, 0, 2**10)
    if plain.rule.hidden is not None:
        _within("hidden", plain.rule.hidden, 1, _MOST_WIDE)


def _within(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")


def _read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(
            f"{shown(path)} should be at most {_LARGEST:,} bytes, found {size:,}"
        )
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{shown(path)} is not a readable safetensors file: {shown(error)}"
        ) from error


def _predictor(plain: _Plain, tensors: dict[str, np.ndarray]) -> Predictor:
    classes, width = len(plain.names), plain.backbone.width
    if plain.rule is not None:
        width = plain.rule.task.width
    _expect(tensors, "centres", (classes, width), np.float32)
    _expect(tensors, "seen", (classes, plain.backbone.width), np.float32)
    _expect(tensors, "known", (classes,), np.bool_)
    _expect(tensors, "examples", (len(plain.examples), width), np.float16)
    of = plain.calibration
    if not plain.flags:
        of = dataclasses.replace(of, threshold=np.inf)
    blocks = {n: x for n, x in tensors.items() if n.startswith("blocks.")}
    trained = None if plain.rule is None else _trained(plain.rule, classes, tensors)
    used = {*_ANCHORS, *blocks, *(() if trained is None else trained.tensors)}
    used |= {f"state.{i}" for i in range(plain.rule.leaves)} if plain.rule else set()
    used |= {"columns"} if plain.rule else set()
    unknown = sorted(tensors.keys() - used)
    if unknown:
        raise ValueError(f"there should be no tensor {shown(unknown[0])}")
    if plain.rule is None and blocks:
        raise ValueError("there should be no blocks without heads that were trained")
    for name in sorted(tensors):
        if tensors[name].dtype.kind == "f" and not np.isfinite(tensors[name]).all():
            raise ValueError(f"tensor {shown(name)} should be finite")
    return Predictor(
        plain.names,
        tensors["known"],
        tensors["centres"],
        tensors["seen"],
        of,
        tensors["examples"],
        plain.examples,
        plain.backbone,
        plain.agreement,
        trained,
        blocks,
        plain.note,
    )


def _trained(rule: _Rule, classes: int, tensors: dict[str, np.ndarray]) -> Trained:
    model = {n: x for n, x in tensors.items() if n.startswith(("adapter.", "head."))}
    state = []
    for number in range(rule.leaves):
        if f"state.{number}" not in tensors:
            raise ValueError(f"there should be a tensor state.{number}")
        state.append(tensors[f"state.{number}"])
    columns = None
    if "columns" in tensors:
        columns = _expect(tensors, "columns", (classes,), np.int32)
        if columns.min() < 0 or columns.max() >= rule.task.num_classes:
            raise ValueError(
                f"columns should be in [0, {rule.task.num_classes}), found "
                f"{columns.min()} to {columns.max()}"
            )
    found = Trained(
        rule.method,
        rule.task,
        rule.unit,
        rule.adapter,
        rule.hidden,
        model,
        tuple(state),
        columns,
    )
    _check_trained(found)
    return found


def _check_trained(trained: Trained) -> None:
    """Every tensor has the shape that method and settings ask for."""
    expected = weights.parameters(trained.abstract())
    for name in sorted(expected.keys() | trained.tensors.keys()):
        if name not in trained.tensors:
            raise ValueError(f"there should be a tensor {shown(name)}")
        if name not in expected:
            raise ValueError(f"there should be no tensor {shown(name)}")
        _expect(trained.tensors, name, expected[name].shape, np.float32)
    if trained.columns is None:
        return
    leaves = jax.tree.leaves(trained.abstract_state())
    if len(leaves) != len(trained.state):
        raise ValueError(
            f"the method should remember {len(leaves)} arrays, found "
            f"{len(trained.state)}"
        )
    for number, leaf in enumerate(leaves):
        given = {f"state.{number}": trained.state[number]}
        _expect(given, f"state.{number}", leaf.shape, leaf.dtype)


def _expect(
    tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: DTypeLike
) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"there should be a tensor {shown(name)}")
    found = tensors[name]
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise ValueError(
            f"tensor {shown(name)} should have shape {shape} of {np.dtype(dtype)}, found "
            f"{found.shape} of {found.dtype}"
        )
    return found
