"""`eagc rehearse`: how far to trust an answer, before anybody knows the true classes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from eagc_jax.gcd.cli.durations import seconds_of
from eagc_jax.gcd.settings.choices import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)

if TYPE_CHECKING:
    from eagc_jax.gcd.evaluation.rehearsal import Candidate, Interval, Rehearsal
    from eagc_jax.gcd.stages.material import Material

_FIRST, _TRAINED = "first", "trained"


@dataclasses.dataclass(frozen=True)
class Rehearse:
    """Says how far to trust an answer, and which of several ways to it to take.

    Hides some known classes, answers, and looks at how well they were found; then others.
    No true class of an unlabeled item is needed.

    For example: eagc rehearse tickets.csv; eagc rehearse photos/ --candidates first;
    eagc rehearse tickets.csv --candidates first trained upgrad pcgrad eagc --budget 10m
    --json rehearsal.json
    """

    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)
    clustering: ClusteringSettings = dataclasses.field(
        default_factory=ClusteringSettings
    )
    # The simplest first: first (k-means on the features), trained, or the name of an
    # aggregator to train with, such as upgrad, pcgrad or eagc.
    candidates: tuple[str, ...] = (_FIRST, _TRAINED)
    # Behind them, training with other numbers of neighbours: a second view of an
    # unlabeled item is one of its ten nearest, or of so many; 0 for the item itself.
    neighbours: tuple[int, ...] = ()
    # How often known classes are hidden, each time others.
    rehearsals: int = 3
    # Of all draws.
    seed: int = 0
    # Time for all of it, as in 90s, 5m or 1h30m; what is left out to fit it is said.
    budget: Annotated[str | None, arg(metavar="TIME")] = None
    # File to write all figures to.
    json: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # Folder of features that were computed before.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None

    def run(self) -> int:
        """Rehearses and prints what that says."""
        from eagc_jax import _files
        from eagc_jax.gcd.backbones.cache import default_folder
        from eagc_jax.gcd.cli.progress import Shown
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.evaluation.rehearsal import rehearse
        from eagc_jax.gcd.runs.discovery import DiscoverSettings
        from eagc_jax.gcd.stages.clock import Clock
        from eagc_jax.gcd.stages.material import gather

        self._check()
        budget = None if self.budget is None else seconds_of(self.budget)
        settings = DiscoverSettings(self.source, self.backbone, self.clustering)
        cache = self.cache or default_folder()
        with warnings_as_lines(), Shown() as shown:
            clock = Clock(shown.stage, budget)
            material = gather(None, settings, None, None, cache, shown.embedding, clock)
            left = clock.left()
            shown.stage("rehearsal")
            found = rehearse(
                material.records,
                material.features,
                self._candidates(material, cache),
                num_classes=self.clustering.num_classes,
                rehearsals=self.rehearsals,
                seed=self.seed,
                seconds=None if left is None else max(left, 0.0),
                on_progress=lambda done, total, what: shown.stage(
                    f"rehearsal, {done} of {total} answers: {what}"
                ),
            )
        print(*told(found), sep="\n")
        if self.json is not None:
            text = json.dumps(found.to_plain(), indent=2, allow_nan=False)
            _files.write_text(self.json, f"{text}\n")
            print(f"wrote {self.json}")
        return 0

    def _check(self) -> None:
        """Names are checked before the work."""
        from eagc_jax.gcd.training.aggregation import aggregator_names

        known = (_FIRST, _TRAINED, *aggregator_names())
        for name in self.candidates:
            if name not in known:
                raise ValueError(f"--candidates takes {', '.join(known)}; got {name!r}")
        if not self.candidates:
            raise ValueError("--candidates must name at least one")
        if any(number < 0 for number in self.neighbours):
            raise ValueError(f"--neighbours takes 0 or more, got {self.neighbours}")

    def _candidates(self, material: Material, cache: pathlib.Path) -> list[Candidate]:
        from eagc_jax.gcd.evaluation import rehearsal
        from eagc_jax.gcd.settings.running import recommended

        records, network = material.records, material.network
        training = recommended(
            records.kind, network.depth, seed=self.seed, items=len(records)
        )
        made = []
        for name in self.candidates:
            if name == _FIRST:
                made.append(rehearsal.first(self.clustering))
            elif name == _TRAINED:
                made.append(rehearsal.trained(training, network=network, cache=cache))
            else:
                made += rehearsal.coordinated(
                    training, [name], network=network, cache=cache
                )
        return made + rehearsal.with_neighbours(
            training, self.neighbours, items=len(records), network=network, cache=cache
        )


def told(found: Rehearsal) -> list[str]:
    """A table with a row a candidate, and what it says in words."""
    width = max(len("candidate"), *(len(one.name) for one in found.candidates))
    lines = [
        f"{'candidate':{width}}  {'New':^18}  {'Old':^18}  {'All':^18}  "
        f"{'New, from the first':^22}  rehearsals  seconds"
    ]
    for one in found.candidates:
        gap = "" if one.difference is None else _interval(one.difference, "+.3f")
        lines.append(
            f"{one.name:{width}}  {_interval(one.new)}  {_interval(one.old)}  "
            f"{_interval(one.all)}  {gap:22}  {len(one.trials):10}  {one.seconds:7.1f}"
        )
    new = found.best.new
    return [
        *lines,
        f"expect {new.expected:.0%} of the items of novel classes in their class's "
        f"cluster, nine times in ten between {new.low:.0%} and {new.high:.0%}, if novel "
        "classes are like the known ones",
        f"chosen: {found.reason}",
        *(f"left out: {what}" for what in found.left_out),
    ]


def _interval(found: Interval | None, form: str = ".3f") -> str:
    if found is None:
        return f"{'-':^18}"
    low, expected, high = (
        format(x, form) for x in (found.low, found.expected, found.high)
    )
    return f"{expected} [{low}, {high}]"
