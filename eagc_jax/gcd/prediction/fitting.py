"""From a discovery to a model for new items."""

from __future__ import annotations

import dataclasses

import numpy as np

from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.clustering import fit_temperature
from eagc_jax.gcd.prediction import hiding, networks, trained
from eagc_jax.gcd.prediction.calibration import (
    FALSE_ALARMS,
    Calibration,
    means,
    threshold,
    unit_rows,
)
from eagc_jax.gcd.prediction.predictor import BackboneOf, Predictor
from eagc_jax.gcd.prediction.trained import Trained
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.settings.choices import BackboneSettings
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.loop import TrainingRun

_EXAMPLES = 2500  # labeled items that are kept, at most
_REMEMBERS = (
    "the method's own rule can't be kept; the nearest centre of its features assigns"
)


def fit_predictor(
    records: Records,
    features: np.ndarray,
    assignment: Assignment,
    centres: np.ndarray,
    *,
    adapted: np.ndarray | None = None,
    training: TrainingRun | None = None,
    network: Backbone | None = None,
    settings: BackboneSettings | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> Predictor:
    """What assigns new items as a discovery assigned its own.

    Args:
      records: N items of the discovery.
      features: (N, width), of the frozen backbone.
      assignment: what the items were given.
      centres: (K, D), of the features that they were assigned by.
      adapted: (N, D) these features, where they are not the frozen ones.
      training: that gave the assignment; None for the first answer.
      network: the frozen backbone; None for features as they are.
      settings: by which it is loaded again; None for a backbone that only Python has.
      false_alarms: share of items like the discovery's that are flagged as unlike
        anything seen.

    Returns:
      The predictor.

    Raises:
      ValueError: lengths differ, or a number is out of its range.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> from eagc_jax.gcd import ClusteringSettings, DiscoverSettings, discover
      >>> corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
      >>> rows = np.concatenate([corners, corners + 0.1])
      >>> records = sources.Records(
      ...     "corners", "embedding", sources.ArrayItems(rows), ids=tuple("abcdef"),
      ...     labels=np.array([0, 1, -1, -1, -1, -1]), class_names=("x", "y"),
      ...     num_known=2,
      ... )
      >>> settings = DiscoverSettings(
      ...     clustering=ClusteringSettings(num_classes=3), quick=True
      ... )
      >>> found = discover(records, settings)
      >>> model = fit_predictor(records, rows, found.assignment, found.centres)
      >>> model.predict(np.array([[0.1, 0.9, 0.1], [0, 0.2, 0.7]])).name
      ['y', 'novel-1']
    """
    adapted = np.asarray(features if adapted is None else adapted)
    _check(records, features, adapted, assignment, centres, false_alarms)
    clusters, labels = np.asarray(assignment.clusters), records.labels
    model, note = None, ""
    if training is not None:
        model = trained.of_run(training, adapted, clusters, len(centres))
        note = "" if model.columns is not None else _REMEMBERS
    rows = _some_labeled(labels)
    examples = unit_rows(adapted[rows]).astype(np.float16)
    known = np.arange(len(centres)) < assignment.num_known
    blocks = {} if training is None else trained.blocks_of_run(training)
    given = adapted if blocks else features  # what `predict` takes
    seen = means(given, clusters, len(centres))
    fitted = dataclasses.replace(
        _calibration(features, adapted, assignment, centres, model),
        threshold=threshold(given, clusters, seen, false_alarms),
        false_alarms=false_alarms,
    )
    found = Predictor(
        tuple(assignment.names),
        known,
        np.asarray(centres, np.float32),
        seen,
        fitted,
        examples,
        tuple(printable(str(records.ids[row])) for row in rows.tolist()),
        _backbone(records, features, network, settings),
        agreement=1.0,
        trained=model,
        blocks=blocks,
        note=note,
    )
    unlabeled = np.flatnonzero(labels < 0)
    same = found.predict(given[unlabeled]).clusters == clusters[unlabeled]
    return dataclasses.replace(
        found, agreement=float(same.mean()) if len(same) else 1.0
    )


def _check(records, features, adapted, assignment, centres, false_alarms) -> None:
    for name, value in (
        ("features", features),
        ("adapted", adapted),
        ("assignment", assignment),
    ):
        if len(value) != len(records):
            raise ValueError(
                f"{name} must have a row for each of the {len(records)} items, got "
                f"{len(value)}"
            )
    if np.shape(centres) != (len(assignment.names), adapted.shape[1]):
        raise ValueError(
            f"centres must have shape {(len(assignment.names), adapted.shape[1])}, got "
            f"{np.shape(centres)}"
        )
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must be in (0, 1), got {false_alarms}")


def _calibration(
    features: np.ndarray,
    adapted: np.ndarray,
    assignment: Assignment,
    centres: np.ndarray,
    model: Trained | None,
) -> Calibration:
    """Of the probability; the heads' own where they were trained to give one."""
    own = None if model is None or model.columns is None else model.temperature
    if own is not None:
        return Calibration(own, by_distance=False, source="the heads' own softmax")
    labels, clusters = assignment.labels, assignment.clusters
    temperature = fit_temperature(adapted, centres, labels, clusters)
    # Features that labels have shaped would show hidden classes as too easy to find.
    plain = fit_temperature(
        features, means(features, clusters, len(centres)), labels, clusters
    )
    found = hiding.fit(
        features,
        labels,
        len(centres),
        temperature=plain,
        novel_share=_novel_share(assignment),
    )
    if found is None:
        return Calibration(temperature, source="labeled items")
    return Calibration(temperature, True, *found, source="known classes, hidden")


def _novel_share(assignment: Assignment) -> float:
    unlabeled = assignment.labels < 0
    novel = assignment.clusters[unlabeled] >= assignment.num_known
    return float(novel.mean()) if len(novel) else 0.0


def _some_labeled(labels: np.ndarray) -> np.ndarray:
    """Rows of labeled items: all, or as many of each class."""
    rows = np.flatnonzero(labels >= 0)
    if len(rows) <= _EXAMPLES:
        return rows
    # The first of each class, then the second of each, ...
    rank = np.zeros(len(rows), np.int64)
    for one in np.unique(labels[rows]):
        (at,) = np.nonzero(labels[rows] == one)
        rank[at] = np.arange(len(at))
    return np.sort(rows[np.argsort(rank, kind="stable")[:_EXAMPLES]])


def _backbone(
    records: Records,
    features: np.ndarray,
    network: Backbone | None,
    settings: BackboneSettings | None,
) -> BackboneOf:
    width = np.shape(features)[1]
    if network is None:
        return BackboneOf(records.kind, width, "embeddings", f"embeddings-{width}")
    name = "" if settings is None else networks.name_of(records.kind, settings)
    return BackboneOf(
        records.kind, width, name, network.fingerprint(), settings or BackboneSettings()
    )
