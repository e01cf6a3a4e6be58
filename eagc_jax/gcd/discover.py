"""From data to categories: the whole way down."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from eagc_jax.gcd import backbones, clustering
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.backbones.embed import OnProgress
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.evaluation.certainty import certainty
from eagc_jax.gcd.evaluation.scores import score
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs import opening
from eagc_jax.gcd.runs.assignment import Assignment, name_clusters
from eagc_jax.gcd.runs.choices import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)
from eagc_jax.gcd.runs.discovery import DiscoverSettings, Discovery, read_settings
from eagc_jax.gcd.runs.settings import RunSettings, recommended
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.loop import TrainingRun

__all__ = [
    "BackboneSettings",
    "ClusteringSettings",
    "DiscoverSettings",
    "Discovery",
    "SourceSettings",
    "discover",
    "read_settings",
]


def discover(
    data: str | os.PathLike | Records | DiscoverSettings,
    settings: DiscoverSettings | None = None,
    *,
    backbone: Backbone | None = None,
    out: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Discovery:
    """Finds the categories of items of which some are labeled.

    Each item gets a feature by a frozen backbone. Semi-supervised k-means on the features
    keeps labeled items with their class, and puts each unlabeled one into a known class
    or a novel cluster; how many there are is given or estimated. That is the first
    answer. Where the settings have a `run`, or `train` says so, a method is then trained
    and assigns the items; how sure that is, is judged by where its features lie.

    Args:
      data: as `sources.open_source` takes it; or records; or settings that name it.
      settings: of everything else; by default, all is as it comes.
      backbone: instead of the one that the settings name.
      out: folder of the run, to be written; None writes nothing.
      cache: folder of features that were computed before; None keeps none. The command
        line uses `backbones.cache.default_folder()`.
      on_progress: of embedding, see `backbones.embed`.
      on_stage: called with the name of each stage as it begins.

    Returns:
      The discovery.

    Raises:
      BadItem: an item can't be read; the settings say whether that is an error.
      ValueError: the data or a setting is not as it should be; the message names it.
      OSError: something can't be read or written.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
      >>> rows = np.concatenate([corners, corners + 0.1])
      >>> records = sources.Records(
      ...     "corners", "embedding", sources.ArrayItems(rows), ids=tuple("abcdef"),
      ...     labels=np.array([0, 1, -1, -1, -1, -1]), class_names=("x", "y"),
      ...     num_known=2,
      ... )
      >>> settings = DiscoverSettings(clustering=ClusteringSettings(num_classes=3))
      >>> found = discover(records, settings)
      >>> found.assignment.assigned
      ['x', 'y', 'novel-1', 'x', 'y', 'novel-1']

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    settings = _settings(data, settings)
    if out is not None:
        run_folder.check(out)
    seconds: dict[str, float] = {}
    tell = on_stage or (lambda name: None)
    stage = _stages(seconds, tell)

    with stage("reading"):
        given = isinstance(data, Records)
        records = data if given else opening.open_records(settings.source)
    with stage("backbone"):
        network = backbone or opening.load_backbone(records, settings.backbone)
    with stage("embedding"):
        embedded = backbones.embed(
            records,
            network,
            cache=cache,
            batch_size=settings.backbone.batch_size,
            on_bad_item=settings.source.on_bad_item,
            on_progress=on_progress,
        )
    records, skipped = opening.readable(records, embedded)
    features, labels = embedded.features, records.labels
    with stage("number of classes"):
        num_classes, estimate = _num_classes(settings, records, features)
    with stage("clustering"):
        found = clustering.semi_supervised_kmeans(
            jax.random.key(settings.seed),
            features,
            num_classes,
            labels,
            labels >= 0,
            restarts=settings.clustering.restarts,
            max_iterations=settings.clustering.max_iterations,
            balanced=settings.clustering.balanced,
        )
        clusters, centres = np.asarray(found.assignments), np.asarray(found.centres)
    with stage("assigning"):
        assignment, centres = _assignment(records, features, clusters, centres)
    first, run, adapted = assignment, None, features
    if settings.run is None and settings.train:
        chosen = recommended(records.kind, network.depth, seed=settings.seed)
        settings = dataclasses.replace(settings, run=chosen)
    if settings.run is not None:
        with stage("training"):
            start = functools.partial(_start, num_classes=num_classes, cache=cache)
            run = start(settings.run, records, network, features)
            for epoch in run:
                tell(f"training, epoch {epoch} of {run.config.epochs}")
            adapted, clusters, centres = _after(run)
            assignment, centres = _assignment(records, adapted, clusters, centres)
    scores = score(records, assignment.clusters)

    name = settings.backbone.name or backbones.default_backbone(records.kind)
    discovery = Discovery(
        settings=_from_anywhere(settings),
        records=records,
        features=features,
        assignment=assignment,
        centres=centres,
        first=first,
        training=run,
        estimate=estimate,
        scores=scores,
        skipped=skipped,
        backbone=name if backbone is None else backbone.fingerprint(),
        embedded=embedded.embedded,
        seconds=seconds,
        adapted=adapted,
        history=None if run is None else run.history,
    )
    return discovery if out is None else discovery.write(out)


def _settings(data: Any, settings: DiscoverSettings | None) -> DiscoverSettings:
    """The settings, with the data's place in them if it has one."""
    if isinstance(data, DiscoverSettings):
        if settings is not None:
            raise ValueError("settings must be given once, got them as data as well")
        settings = data
    settings = settings or DiscoverSettings()
    source = settings.source
    if isinstance(data, Records):
        source = dataclasses.replace(source, data=None)
    elif not isinstance(data, DiscoverSettings):
        source = dataclasses.replace(source, data=os.fspath(data))
    return dataclasses.replace(settings, source=source)


def _from_anywhere(settings: DiscoverSettings) -> DiscoverSettings:
    """The same for who reads them in another folder."""
    backbone = settings.backbone
    if backbone.weights is not None:
        weights = os.path.abspath(backbone.weights)
        backbone = dataclasses.replace(backbone, weights=weights)
    source = opening.absolute(settings.source)
    return dataclasses.replace(settings, source=source, backbone=backbone)


def _stages(seconds: dict[str, float], tell: Callable[[str], None]):
    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        tell(name)
        started = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - started

    return stage


def _num_classes(
    settings: DiscoverSettings, records: Records, features: np.ndarray
) -> tuple[int, NumClasses | None]:
    """The number given, if that can be; else an estimate, and its number."""
    number = settings.clustering.num_classes
    if number is None:
        key = jax.random.key(settings.seed)
        found = clustering.estimate_num_classes(features, records.labels, key=key)
        return found.number, found
    known, unlabeled = records.num_known, int((~records.labeled_mask).sum())
    if not known <= number <= known + unlabeled:
        raise ValueError(
            f"num_classes must be in [{known}, {known + unlabeled}], as {records.name} "
            f"has {known} known classes and {unlabeled} unlabeled items; got {number}"
        )
    return number, None


def _start(
    settings: RunSettings,
    records: Records,
    network: Backbone,
    features: np.ndarray,
    *,
    num_classes: int,
    cache: str | os.PathLike | None,
) -> TrainingRun:
    """On the items themselves where blocks of the backbone train, else on features."""
    more: dict[str, Any] = {"num_classes": num_classes, "name": "discover"}
    if settings.training.trains != "blocks":
        return settings.start(records, network, features=features, cache=cache, **more)
    if not network.depth:
        raise ValueError(
            "trains = 'blocks' needs a backbone with blocks, such as a vit; this one "
            "has none: train an adapter on its features, trains = 'adapter'"
        )
    return settings.start(records, network, **more)


def _after(run: TrainingRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, clusters (those that nobody is in left out) and their centres."""
    clusters, features = run.assign()
    labels = run.records.labels
    clusters = np.where(labels >= 0, labels, clusters)
    used, clusters = np.unique(clusters, return_inverse=True)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    centres = np.zeros((len(used), features.shape[1]))
    np.add.at(centres, clusters, features / np.maximum(lengths, 1e-12))
    return features, clusters, centres / np.bincount(clusters)[:, None]


def _assignment(
    records: Records, features: np.ndarray, clusters: np.ndarray, centres: np.ndarray
) -> tuple[Assignment, np.ndarray]:
    """With the novel clusters in the order of their sizes, and so their centres."""
    known = records.class_names[: records.num_known]
    order, names = name_clusters(known, clusters, len(centres))
    clusters, centres = np.argsort(order)[clusters], centres[order]
    sure = certainty(features, centres, clusters, records.labels)
    return Assignment(
        records.ids, records.labels, clusters, names, len(known), *sure
    ), centres
