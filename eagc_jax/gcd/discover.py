"""From data to categories: the whole way down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from eagc_jax.gcd import backbones, clustering
from eagc_jax.gcd.backbones import Backbone, Embedded
from eagc_jax.gcd.backbones.embed import OnProgress
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.evaluation.certainty import certainty
from eagc_jax.gcd.evaluation.scores import Scores, score
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs import opening
from eagc_jax.gcd.runs.assignment import Assignment, csv_lines, name_clusters
from eagc_jax.gcd.runs.discovery import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)
from eagc_jax.gcd.runs.plain import from_plain, to_plain
from eagc_jax.gcd.runs.settings import RunSettings
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.sources.strings import shown

_ENTRY = "discover"  # of settings.json


@dataclasses.dataclass(frozen=True)
class DiscoverSettings:
    """All that an answer depends on, besides the items themselves."""

    source: SourceSettings = SourceSettings()  # noqa: RUF009  (frozen, as the next two)
    backbone: BackboneSettings = BackboneSettings()  # noqa: RUF009
    clustering: ClusteringSettings = ClusteringSettings()  # noqa: RUF009
    # Of training; None for the first answer, without any.
    run: RunSettings | None = None
    seed: int = 0  # of clustering; training has one of its own


@dataclasses.dataclass(frozen=True)
class Discovery:
    """What was found; rows are the items that could be read, in the source's order."""

    settings: DiscoverSettings
    records: Records
    features: np.ndarray  # (N, width) float32, of the frozen backbone
    assignment: Assignment
    centres: np.ndarray  # (K, width), in the order of assignment.names
    estimate: NumClasses | None  # of the number of classes; None where it was given
    scores: Scores | None  # None where the true classes are not known
    skipped: tuple[BadItem, ...]  # items that could not be read
    backbone: str  # its name
    embedded: int  # contents that no cache had
    seconds: dict[str, float]  # wall clock of each stage
    folder: pathlib.Path | None = None  # of the run, where one was written

    def write(self, out: str | os.PathLike) -> Discovery:
        """Writes the run's folder, whole or not at all.

        - `assignment.csv`, `assignment.parquet`: see `Assignment.write`.
        - `skipped.csv`: items that could not be read, and why; often none.
        - `settings.json`: gives the run back, by `read_settings`.
        - `summary.json`: number of classes, scores, seconds.

        Args:
          out: the folder; see `eagc_jax.gcd.runs.folder.whole`.

        Returns:
          The same discovery, which knows its folder.

        Raises:
          OSError: the folder holds something else, or can't be written.
        """
        with run_folder.whole(out) as partial:
            self.assignment.write(partial)
            rows = [(bad.item, bad.reason) for bad in self.skipped]
            skipped = "".join(csv_lines(("id", "reason"), rows))
            _write(partial / "skipped.csv", skipped)
            _write_json(partial / "summary.json", self.summary())
            settings = {
                run_folder.MARK: run_folder.OURS,
                _ENTRY: to_plain(self.settings),
            }
            _write_json(partial / run_folder.SETTINGS_FILE, settings)
        return dataclasses.replace(self, folder=pathlib.Path(out))

    @property
    def num_classes(self) -> int:
        """K, known and novel ones."""
        return len(self.assignment.names)

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        estimate = self.estimate
        device = jax.devices()[0]
        return {
            "items": len(self.records),
            "labeled": int(self.records.labeled_mask.sum()),
            "skipped": len(self.skipped),
            "known_classes": self.records.num_known,
            "num_classes": self.num_classes,
            "num_classes_interval": estimate and [estimate.low, estimate.high],
            "scores": None if self.scores is None else _without_nan(self.scores),
            "backbone": self.backbone,
            "device": f"{device.platform}: {device.device_kind}",
            "embedded": self.embedded,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


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
    or a novel cluster; how many there are is given or estimated.

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
    stage = _stages(seconds, on_stage)

    with stage("reading"):
        records = data if isinstance(data, Records) else None
        records = records or opening.open_records(settings.source)
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
    records, skipped = _readable(records, embedded)
    features, labels = embedded.features, records.labels
    with stage("number of classes"):
        estimate = _estimate(settings, records, features)
    num_classes = (
        settings.clustering.num_classes if estimate is None else estimate.number
    )
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
    scores = score(records, assignment.clusters)

    name = settings.backbone.name or backbones.default_backbone(records.kind)
    discovery = Discovery(
        settings=settings,
        records=records,
        features=features,
        assignment=assignment,
        centres=centres,
        estimate=estimate,
        scores=scores,
        skipped=skipped,
        backbone=name if backbone is None else backbone.fingerprint(),
        embedded=embedded.embedded,
        seconds=seconds,
    )
    return discovery if out is None else discovery.write(out)


def read_settings(path: str | os.PathLike) -> DiscoverSettings:
    """The settings of a run, from its settings.json.

    Args:
      path: of the file, or of the run's folder.

    Returns:
      The settings.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds no settings, or wrong ones; the message names every one.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path /= run_folder.SETTINGS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{shown(path)} can't be read as settings: {error}") from error
    if not isinstance(found, dict) or _ENTRY not in found:
        raise ValueError(
            f"{shown(path)} should be a settings.json that a discovery wrote, with an "
            f"entry {_ENTRY!r}"
        )
    try:
        return from_plain(DiscoverSettings, found[_ENTRY])
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


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
    backbone = settings.backbone
    if backbone.weights is not None:
        weights = os.path.abspath(backbone.weights)
        backbone = dataclasses.replace(backbone, weights=weights)
    return dataclasses.replace(
        settings, source=opening.absolute(source), backbone=backbone
    )


def _stages(seconds: dict[str, float], on_stage: Callable[[str], None] | None):
    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        if on_stage is not None:
            on_stage(name)
        started = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - started

    return stage


def _readable(records: Records, embedded: Embedded) -> tuple[Records, tuple]:
    """The records that have a feature, and all items that were left out."""
    bad = tuple(
        BadItem(str(records.ids[row]), error.reason) for row, error in embedded.bad
    )
    skipped = (*records.skipped, *bad)
    if bad:
        records = records.without([row for row, _ in embedded.bad])
    return _with_known_classes(records), skipped


def _with_known_classes(records: Records) -> Records:
    """Less the known classes that have lost all their labeled items: they are novel."""
    counts = np.bincount(
        records.labels[records.labeled_mask], minlength=records.num_known
    )
    lost = np.flatnonzero(counts == 0)
    if not len(lost):
        return records
    kept = np.flatnonzero(counts)
    lost_names = ", ".join(shown(records.class_names[one]) for one in lost)
    if len(kept) < 2:
        raise ValueError(
            f"{records.name} should have at least two known classes; no labeled item "
            f"could be read of {lost_names}"
        )
    warnings.warn(
        f"counted as novel, as no labeled item could be read: {lost_names}",
        stacklevel=3,
    )
    novel = np.arange(records.num_known, len(records.class_names))
    order = np.concatenate([kept, lost, novel])
    number = np.append(np.argsort(order), -1).astype(np.int32)  # -1 stays -1
    return dataclasses.replace(
        records,
        labels=number[records.labels],
        truth=None if records.truth is None else number[records.truth],
        class_names=tuple(records.class_names[one] for one in order),
        num_known=len(kept),
    )


def _estimate(
    settings: DiscoverSettings, records: Records, features: np.ndarray
) -> NumClasses | None:
    """Of the number of classes; None where a possible one is given."""
    number = settings.clustering.num_classes
    if number is None:
        key = jax.random.key(settings.seed)
        return clustering.estimate_num_classes(features, records.labels, key=key)
    known, unlabeled = records.num_known, int((~records.labeled_mask).sum())
    if not known <= number <= known + unlabeled:
        raise ValueError(
            f"num_classes must be in [{known}, {known + unlabeled}], as {records.name} "
            f"has {known} known classes and {unlabeled} unlabeled items; got {number}"
        )
    return None


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


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def _write_json(path: pathlib.Path, values: Any) -> None:
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
    _write(path, f"{text}\n")


def _without_nan(scores: Scores) -> dict[str, float | None]:
    values = scores._asdict().items()
    return {name: value if np.isfinite(value) else None for name, value in values}
