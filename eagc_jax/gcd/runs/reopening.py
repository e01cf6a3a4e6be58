"""From a run's folder back to what was discovered."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from eagc_jax.gcd import backbones
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.decisions import read_decisions
from eagc_jax.gcd.evaluation.rehearsal import read_rehearsal
from eagc_jax.gcd.prediction import Predictor, load_predictor
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.runs.discovery import (
    DECISIONS_FILE,
    FIRST,
    HISTORY_FILE,
    REHEARSAL_FILE,
    DiscoverSettings,
    Discovery,
    read_settings,
    read_skipped,
)
from eagc_jax.gcd.runs.folder import SUMMARY_FILE
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.runs.reading import member, read_json
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.gcd.stages import opening
from eagc_jax.gcd.stages.answering import means

MODEL_FILE = "model.json"

_T = TypeVar("_T")


def reopen(
    folder: str | os.PathLike[str],
    *,
    features: bool = True,
    records: Records | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Discovery:
    """A discovery that was written, to look at, to export or to predict with.

    The data are opened again by the run's settings; their features come from the cache,
    and what it lacks is computed. Nothing is clustered or trained.

    Args:
      folder: of the run.
      features: whether features are needed; without them, `features`, `adapted` and
        `centres` are empty.
      records: the data, where the run was made from records in memory.
      cache: folder of features that were computed before; None computes all of them.

    Returns:
      The discovery. `training` is None, and `first` is the assignment.

    Raises:
      FileNotFoundError: there is no such run, or its data are gone.
      ValueError: the folder holds something else, or the data have changed: an item that
        was assigned is missing. The message names it.

    Examples:
      `reopen("tickets-run").assignment.names`
    """
    folder = pathlib.Path(folder)
    settings, summary = read_settings(folder), read_json(member(folder, SUMMARY_FILE))
    assignment = Assignment.read(folder)
    if records is None:
        if settings.source.data is None:
            raise ValueError(
                f"{shown(folder)} is of records in memory: give them, records=..."
            )
        records = opening.open_records(settings.source, require_labels=False)
    records = _as_assigned(_in_order(records, assignment.ids, folder), assignment)
    predictor = _if_there(folder, MODEL_FILE, lambda _: load_predictor(folder))
    empty = np.zeros((len(records), 0), np.float32)
    found, adapted, centres = empty, empty, np.zeros((len(assignment.names), 0))
    if features:
        found, adapted = _features(records, settings, predictor, cache)
        centres = means(adapted, assignment.clusters, len(assignment.names))
    return Discovery(
        settings=settings,
        records=records,
        features=found,
        assignment=assignment,
        centres=centres,
        first=assignment,
        training=None,
        estimate=_estimate(summary),
        scores=None,
        skipped=read_skipped(folder),
        backbone=str(summary.get("backbone", "")),
        embedded=0,
        seconds={},
        adapted=adapted,
        chosen=str(summary.get("chosen", FIRST)),
        rehearsal=_if_there(folder, REHEARSAL_FILE, read_rehearsal),
        decisions=_if_there(folder, DECISIONS_FILE, read_decisions),
        predictor=predictor,
        history=_if_there(folder, HISTORY_FILE, _history),
        folder=folder,
    )


def _estimate(summary: Mapping[str, object]) -> NumClasses | None:
    """The interval, without its curve."""
    interval, number = summary.get("num_classes_interval"), summary.get("num_classes")
    if not isinstance(number, int) or not isinstance(interval, list):
        return None
    if [type(value) for value in interval] != [int, int]:
        return None
    return NumClasses(number, interval[0], interval[1], np.zeros((0, 2)))


def _if_there(
    folder: pathlib.Path, name: str, read: Callable[[pathlib.Path], _T]
) -> _T | None:
    path = member(folder, name)
    return read(path) if path.is_file() else None


def _history(path: pathlib.Path) -> RunHistory:
    try:
        return RunHistory.from_plain(read_json(path))
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _in_order(records: Records, ids: Sequence[str], folder: pathlib.Path) -> Records:
    """The records of these ids."""
    row_of = {printable(name): row for row, name in enumerate(records.ids)}
    missing = [name for name in ids if name not in row_of]
    if missing:
        raise ValueError(
            f"{shown(folder)} has {len(missing):,} items that {shown(records.name)} has "
            f"not any more, such as {shown(missing[0])}: bring them back, or discover "
            "anew"
        )
    return records.select([row_of[name] for name in ids])


def _as_assigned(records: Records, assignment: Assignment) -> Records:
    """With the run's labels and classes: items may have been left out, or decided on."""
    known = assignment.names[: assignment.num_known]
    names, truth = known, records.truth
    if truth is not None:
        names = (*known, *(x for x in records.class_names if x not in known))
        index = {name: number for number, name in enumerate(names)}
        truth = np.array([index[x] for x in records.class_names], np.int32)[truth]
    return dataclasses.replace(
        records,
        labels=assignment.labels.astype(np.int32),
        class_names=names,
        num_known=len(known),
        truth=truth,
    )


def _features(
    records: Records,
    settings: DiscoverSettings,
    predictor: Predictor | None,
    cache: str | os.PathLike[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of the frozen backbone, and those by which items were assigned."""

    def of(network: backbones.Backbone) -> np.ndarray:
        size = settings.backbone.batch_size
        return backbones.embed(records, network, cache=cache, batch_size=size).features

    found = of(opening.load_backbone(records, settings.backbone))
    if predictor is None:
        return found, found
    given = of(predictor.load_backbone()) if predictor.blocks else found
    return found, predictor.adapt(given)
