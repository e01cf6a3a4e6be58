"""From data to categories: all steps of a discovery, in their order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from eagc_jax.gcd import backbones, clustering, decisions
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.backbones.embed import OnProgress
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.decisions import Decisions
from eagc_jax.gcd.evaluation.certainty import certainty
from eagc_jax.gcd.evaluation.scores import score
from eagc_jax.gcd.prediction import Predictor, fit_predictor
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.assignment import Assignment, name_clusters
from eagc_jax.gcd.runs.discovery import FIRST, DiscoverSettings, Discovery, as_entry
from eagc_jax.gcd.runs.logs import Logs
from eagc_jax.gcd.settings.choices import BackboneSettings
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.stages import answering, opening
from eagc_jax.gcd.stages.clock import Clock
from eagc_jax.gcd.stages.material import Material, gather
from eagc_jax.gcd.stages.planning import Plan, plan
from eagc_jax.gcd.training.checkpoints import facts
from eagc_jax.gcd.training.loop import TrainingRun

_TRAINING = pathlib.Path(run_folder.CHECKPOINTS, "training")


class Answer(NamedTuple):
    """Which category each item is given, and by which features."""

    assignment: Assignment
    centres: np.ndarray  # (K, D), in the order of assignment.names
    adapted: np.ndarray  # (N, D) float32


def discover(
    data: str | os.PathLike[str] | Records | DiscoverSettings,
    settings: DiscoverSettings | None = None,
    *,
    backbone: Backbone | None = None,
    decided: Decisions | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_answer: Callable[[Records, Answer, float], None] | None = None,
) -> Discovery:
    """Finds the categories of items of which some are labeled.

    Each item gets a feature by a frozen backbone. Semi-supervised k-means on the features
    keeps labeled items with their class, and puts each unlabeled one into a known class
    or a novel cluster; how many there are is given or estimated. That is the first
    answer, and with `quick` the last. Else a method is trained, and where there are
    enough known classes the whole of it is rehearsed: some of them are hidden, and how
    well they are found again says how far to trust the answer, and whether the first or
    a trained one is taken. What a person has decided holds, whatever is found.

    Args:
      data: as `sources.open_source` takes it; or records; or settings that name it.
      settings: of everything else; by default, all is as it comes.
      backbone: instead of the one that the settings name.
      decided: decisions of a person; by default, of the file that the settings name.
      out: folder of the run, to be written; None writes nothing. While the work goes on,
        it holds the settings and checkpoints of training: called again with the same
        settings and folder, a run that was interrupted goes on.
      cache: folder of features, rehearsals and trainings that were computed before;
        None keeps none. The command line uses `backbones.cache.default_folder()`.
      on_progress: of embedding, see `backbones.embed`.
      on_stage: called with the name of each stage as it begins.
      on_answer: called with the records, the first answer and the seconds that it took.

    Returns:
      The discovery.

    Raises:
      BadItem: an item can't be read; the settings say whether that is an error.
      ValueError: the data, a setting or a decision is not as it should be; the message
        names it.
      OSError: something can't be read or written, or the folder is in use.

    Examples:
      >>> from eagc_jax.gcd import ClusteringSettings, sources
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
      >>> found.assignment.assigned
      ['x', 'y', 'novel-1', 'x', 'y', 'novel-1']
      >>> found.predict(np.array([[0.1, 0.2, 0.9]])).name
      ['novel-1']

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    settings = _settings(data, settings)
    clock = Clock(on_stage, settings.budget)
    with _place(out, settings) as place:
        given = data if isinstance(data, Records) else None
        material = gather(given, settings, backbone, decided, cache, on_progress, clock)
        with clock("number of classes"):
            number, estimate = _num_classes(settings, material)
        answer = first = _first_answer(settings, material, number, clock)
        if on_answer is not None:
            on_answer(material.records, first, clock.passed())
        given_number = None if estimate is not None else number
        chosen = plan(settings, material, given_number, cache, clock)
        run = _trained(settings, chosen, material, number, cache, place, clock)
        if run is not None:
            answer = _answer(material, *answering.after(run), used=True)
        with clock("prediction"):
            loads = settings.backbone if backbone is None else None
            predictor, assignment = _predictor(material, answer, run, loads)
        found = Discovery(
            settings=_from_anywhere(settings),
            records=material.records,
            features=material.features,
            assignment=assignment,
            centres=answer.centres,
            first=first.assignment,
            training=run,
            estimate=estimate,
            scores=score(material.records, assignment.clusters),
            skipped=material.skipped,
            backbone=_name_of(material, settings, backbone),
            embedded=material.embedded,
            seconds=clock.seconds,
            adapted=answer.adapted,
            chosen=chosen.name if run is not None else FIRST,
            rehearsal=chosen.rehearsal,
            decisions=material.decisions,
            predictor=predictor,
            history=None if run is None else run.history,
            notes=_notes(chosen, run, clock),
        )
        if out is None:
            return found
        with clock("writing"):
            found = found.write(out)
        run_folder.forget_progress(out)
        return found


def _name_of(
    material: Material, settings: DiscoverSettings, backbone: Backbone | None
) -> str:
    if backbone is not None:
        return backbone.fingerprint()
    return settings.backbone.name or backbones.default_backbone(material.records.kind)


def _settings(
    data: str | os.PathLike[str] | Records | DiscoverSettings,
    settings: DiscoverSettings | None,
) -> DiscoverSettings:
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
    decided = settings.decisions and os.path.abspath(settings.decisions)
    source = opening.absolute(settings.source)
    return dataclasses.replace(
        settings, source=source, backbone=backbone, decisions=decided
    )


def _num_classes(
    settings: DiscoverSettings, material: Material
) -> tuple[int, NumClasses | None]:
    """The number given, if that can be; else an estimate, and its number."""
    records, number = material.records, settings.clustering.num_classes
    if number is None:
        key = jax.random.key(settings.seed)
        found = clustering.estimate_num_classes(
            material.features, records.labels, key=key
        )
        return max(found.number, _least(material)), found
    if material.constraints is not None:
        number += material.constraints.more_classes
    known, unlabeled = _least(material), int((~records.labeled_mask).sum())
    if not known <= number <= known + unlabeled:
        raise ValueError(
            f"num_classes must be in [{known}, {known + unlabeled}], as {records.name} "
            f"has {known} known classes and {unlabeled} unlabeled items; got {number}"
        )
    return number, None


def _least(material: Material) -> int:
    """Known classes, and as many more as the decisions need."""
    if material.constraints is None:
        return material.records.num_known
    return decisions.least_clusters(material.constraints)


def _first_answer(
    settings: DiscoverSettings, material: Material, number: int, clock: Clock
) -> Answer:
    features = material.features
    with clock("clustering"):
        found = answering.first_answer(
            features,
            material.records.labels,
            number,
            settings.clustering,
            settings.seed,
        )
        clusters, centres = np.asarray(found.assignments), np.asarray(found.centres)
    with clock("assigning"):
        return _answer(material, features, clusters, centres)


def _trained(
    settings: DiscoverSettings,
    chosen: Plan,
    material: Material,
    number: int,
    cache: str | os.PathLike[str] | None,
    place: pathlib.Path | None,
    clock: Clock,
) -> TrainingRun | None:
    """The run after its last epoch; None where nothing is trained, or time is over."""
    left = clock.left()
    # Going by what it took in rehearsal.
    if chosen.run is None or (left is not None and left < (chosen.seconds or 0.0)):
        return None
    logs = None if place is None else Logs(place, tensorboard=settings.tensorboard)
    with clock("training"), logs or contextlib.nullcontext():
        run = answering.start(
            chosen.run,
            material.records,
            material.network,
            material.features,
            num_classes=number,
            cache=cache,
            checkpoints=None if place is None else place / _TRAINING,
        )
        content = facts.digest(material.features)
        kept = cache is not None and run.recall(cache, content)
        if logs is not None:  # what a run that was killed has not written
            logs.write(run.history)
        for epoch in run:
            if logs is not None:
                logs.write(run.history)
            clock.note(f"training, epoch {epoch} of {run.config.epochs}")
            if _too_late(run, clock):
                return None
        if cache is not None and not kept:
            run.remember(cache, content)
    return run


def _too_late(run: TrainingRun, clock: Clock) -> bool:
    """Whether the epochs that are left don't fit into the budget, going by the last."""
    left, epochs = clock.left(), run.config.epochs - len(run.history.epochs)
    return left is not None and epochs * run.history.seconds[-1] > left


def _notes(chosen: Plan, run: TrainingRun | None, clock: Clock) -> tuple[str, ...]:
    notes = [chosen.note] if chosen.note else []
    if chosen.run is not None and run is None:
        notes.append(
            f"{chosen.name} was chosen, but does not fit into {clock.budget:g} s: the "
            "first answer is taken"
        )
    return tuple(notes)


@contextlib.contextmanager
def _place(
    out: str | os.PathLike[str] | None, settings: DiscoverSettings
) -> Iterator[pathlib.Path | None]:
    """Holds the run's folder, and yields it."""
    if out is None:
        yield None
        return
    with run_folder.in_use(out, as_entry(_from_anywhere(settings))) as folder:
        try:
            yield folder
        except Exception:
            if not (folder / _TRAINING).exists():  # nothing to go on from
                run_folder.forget_progress(folder)
            raise


def _answer(
    material: Material,
    features: np.ndarray,
    clusters: np.ndarray,
    centres: np.ndarray,
    *,
    used: bool = False,
) -> Answer:
    """As decided, with the novel clusters in the order of their sizes.

    Args:
      material: the items.
      features: (N, D), by which they are assigned.
      clusters: (N,) integers.
      centres: (K, D).
      used: whether clusters that nobody is in are left out.
    """
    records = material.records
    if material.constraints is not None:
        clusters = decisions.obey(material.constraints, features, clusters, centres)
    if used:
        _, clusters = np.unique(clusters, return_inverse=True)
        centres = answering.means(features, clusters, clusters.max() + 1)
    known = records.class_names[: records.num_known]
    order, names = name_clusters(known, clusters, len(centres))
    clusters, centres = np.argsort(order)[clusters], centres[order]
    sure = certainty(features, centres, clusters, records.labels)
    assignment = Assignment(
        records.ids, records.labels, clusters, names, len(known), *sure
    )
    return Answer(assignment, centres, features)


def _predictor(
    material: Material,
    answer: Answer,
    run: TrainingRun | None,
    settings: BackboneSettings | None,
) -> tuple[Predictor, Assignment]:
    """The model that assigns new items; and the run's own, with its probabilities."""
    found = fit_predictor(
        material.records,
        material.features,
        answer.assignment,
        answer.centres,
        adapted=answer.adapted,
        training=run,
        network=material.network,
        settings=settings,
    )
    given = answer.adapted if found.blocks else material.features
    return found, found.judged(given, answer.assignment)
