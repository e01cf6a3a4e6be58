"""What a discovery was asked and what it found: in Python, and as a run's folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.evaluation.scores import Scores
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.assignment import Assignment, csv_lines
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.runs.reading import member, read_bytes, read_json
from eagc_jax.gcd.settings.choices import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)
from eagc_jax.gcd.settings.plain import from_plain, to_plain
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.gcd.training.loop import TrainingRun

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone
    from eagc_jax.gcd.decisions import Decisions
    from eagc_jax.gcd.evaluation.rehearsal import Rehearsal
    from eagc_jax.gcd.prediction import Prediction, Predictor

_ENTRY = "discover"  # of settings.json
SKIPPED_FILE = "skipped.csv"
_SKIPPED_MOST = 2**30  # bytes of it that are read
REHEARSAL_FILE = "rehearsal.json"
DECISIONS_FILE = "decisions.json"
HISTORY_FILE = "history.json"
PAGE_FILE = "page.html"
JUNK = "junk, as a person decided"  # a reason in skipped.csv
FIRST = "first answer"  # `Discovery.chosen` where nothing was trained


@dataclasses.dataclass(frozen=True)
class DiscoverSettings:
    """All that an answer depends on, besides the items themselves."""

    source: SourceSettings = SourceSettings()  # noqa: RUF009  (frozen, as the next two)
    backbone: BackboneSettings = BackboneSettings()  # noqa: RUF009
    clustering: ClusteringSettings = ClusteringSettings()  # noqa: RUF009
    # Of training; None for what suits data and device (`settings.running.recommended`).
    run: RunSettings | None = None
    seed: int = 0  # of clustering and rehearsal; training has one of its own
    quick: bool = False  # stop at the first answer, before any training
    rehearse: bool = True  # before an answer is chosen; else the trained one is taken
    rehearsals: int = 3  # each with other known classes hidden
    # Aggregators with which training is rehearsed, too, and may be chosen.
    coordinators: tuple[str, ...] = ()
    # Numbers of neighbours with which it is rehearsed, too; 0 for none as views.
    neighbours: tuple[int, ...] = ()
    # Seconds for all of it; rehearsal and training are cut to fit. None: as it takes.
    budget: float | None = None
    decisions: str | None = None  # file of a person's decisions, see `gcd.decisions`
    tensorboard: bool = False  # write event files of training too; needs tensorboardX

    def __post_init__(self) -> None:
        if self.rehearsals < 1:
            raise ValueError(f"rehearsals must be at least 1, got {self.rehearsals}")
        if any(number < 0 for number in self.neighbours):
            raise ValueError(f"neighbours must be at least 0, got {self.neighbours}")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget must be positive seconds, got {self.budget}")


@dataclasses.dataclass(frozen=True)
class Discovery:
    """What was found; rows are the items that could be read, in the source's order."""

    settings: DiscoverSettings
    records: Records
    features: np.ndarray  # (N, width) float32, of the frozen backbone
    assignment: Assignment
    centres: np.ndarray  # (K, width), in the order of assignment.names
    first: Assignment  # before any training; the same one where nothing was trained
    training: TrainingRun | None  # with the model; None where nothing was trained
    estimate: NumClasses | None  # of the number of classes; None where it was given
    scores: Scores | None  # None where the true classes are not known
    skipped: tuple[BadItem, ...]  # items that could not be read
    backbone: str  # its name
    embedded: int  # contents that no cache had
    seconds: dict[str, float]  # wall clock of each stage
    # (N, D') float32, by which items were assigned: `features`, or what training made
    # of them.
    adapted: np.ndarray
    chosen: str = FIRST  # which answer the assignment is, by the rehearsal's names
    rehearsal: Rehearsal | None = None  # how far to trust it
    decisions: Decisions | None = None  # of a person, that were obeyed
    predictor: Predictor | None = None  # for new items
    history: RunHistory | None = None  # of training; without traces where it was read
    notes: tuple[str, ...] = ()  # what was left out, and why
    folder: pathlib.Path | None = None  # of the run, where one was written

    def write(self, out: str | os.PathLike[str]) -> Discovery:
        """Writes the run's folder, whole or not at all.

        - `assignment.csv`, `assignment.parquet`: see `Assignment.write`.
        - `skipped.csv`: items that could not be read, and why; junk; often none.
        - `settings.json`: gives the run back, by `read_settings`.
        - `summary.json`: number of classes, what was chosen, scores, seconds.
        - `model.json`, `model.safetensors`: see `Predictor.save`.
        - `rehearsal.json`, `decisions.json`, `history.json`: where there are some.
        - `page.html`: to look at and to decide on, see `page`.

        Beside these lie the logs of training, see `runs.logs`.

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
            _write(partial / SKIPPED_FILE, skipped)
            _write_json(partial / "summary.json", self.summary())
            settings = {run_folder.MARK: run_folder.OURS, **as_entry(self.settings)}
            _write_json(partial / run_folder.SETTINGS_FILE, settings)
            if self.predictor is not None:
                self.predictor.save(partial)
            if self.rehearsal is not None:
                _write_json(partial / REHEARSAL_FILE, self.rehearsal.to_plain())
            if self.decisions is not None:
                self.decisions.write(partial / DECISIONS_FILE)
            if self.history is not None:
                _write_json(partial / HISTORY_FILE, self.history.to_plain())
            there = dataclasses.replace(self, folder=pathlib.Path(out))
            there.page(partial / PAGE_FILE)
        return there

    def page(self, path: str | os.PathLike[str] | None = None) -> pathlib.Path:
        """Writes the page: one HTML file, to look at and to decide on.

        Args:
          path: of the file; by default page.html in the run's folder.

        Returns:
          The path.

        Raises:
          ValueError: no path is given, and the discovery was not written.
          OSError: the file can't be written.
        """
        from eagc_jax.gcd.report.explorer import write_page

        if not path:
            if self.folder is None:
                raise ValueError("path is needed: the discovery has no folder")
            path = self.folder / PAGE_FILE
        path = pathlib.Path(path)
        write_page(self, path)
        return path

    def predict(
        self,
        items: np.ndarray | Records | str | os.PathLike[str],
        *,
        network: Backbone | None = None,
    ) -> Prediction:
        """Assigns new items.

        Args:
          items: (M, width) features as the discovery's; or what `sources.open_source`
            takes, or records: they are embedded first.
          network: the backbone, where it was one that only Python has.

        Returns:
          The prediction, a row for each item.

        Raises:
          ValueError: there is no predictor, or the items are of another kind.
          BadItem: an item can't be read.
        """
        from eagc_jax.gcd import backbones
        from eagc_jax.gcd.stages import opening

        if self.predictor is None:
            raise ValueError("there is no predictor: the run was written without one")
        if isinstance(items, np.ndarray):
            return self.predictor.predict(items)
        if not isinstance(items, Records):
            source = dataclasses.replace(self.settings.source, data=os.fspath(items))
            items = opening.open_records(source, require_labels=False)
        network = self.predictor.load_backbone(network)
        return self.predictor.predict(backbones.embed(items, network).features)

    @property
    def num_classes(self) -> int:
        """K, known and novel ones."""
        return len(self.assignment.names)

    def summary(self) -> JsonObject:
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
            "chosen": self.chosen,
            "notes": list(self.notes),
            "backbone": self.backbone,
            "device": f"{device.platform}: {device.device_kind}",
            "embedded": self.embedded,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def as_entry(settings: DiscoverSettings) -> JsonObject:
    """What settings.json holds of them, as plain values."""
    return {_ENTRY: to_plain(settings)}


def read_settings(path: str | os.PathLike[str]) -> DiscoverSettings:
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
        path = member(path, run_folder.SETTINGS_FILE)
    found = read_json(path)
    if _ENTRY not in found:
        raise ValueError(
            f"{shown(path)} should be a settings.json that a discovery wrote, with an "
            f"entry {_ENTRY!r}"
        )
    try:
        return from_plain(DiscoverSettings, found[_ENTRY])
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def read_skipped(folder: str | os.PathLike[str]) -> tuple[BadItem, ...]:
    """The items that a run left out, from its skipped.csv; none if there is no such file.

    Raises:
      ValueError: the file has other columns.
    """
    path = member(folder, SKIPPED_FILE)
    if not path.is_file():
        return ()
    text = read_bytes(path, most=_SKIPPED_MOST).decode(errors="replace")
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        if next(rows, None) != ["id", "reason"]:
            raise ValueError("should have the columns id and reason")
        return tuple(BadItem(*row[:2]) for row in rows if len(row) > 1)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def _write_json(path: pathlib.Path, values: object) -> None:
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
    _write(path, f"{text}\n")


def _without_nan(scores: Scores) -> dict[str, float | None]:
    values = scores._asdict().items()
    return {name: value if np.isfinite(value) else None for name, value in values}
