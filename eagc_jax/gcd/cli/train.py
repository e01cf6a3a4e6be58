"""`eagc train`: training as it is asked for, without a rehearsal."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from eagc_jax.gcd.settings.choices import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)

if TYPE_CHECKING:
    from eagc_jax.gcd.runs.discovery import DiscoverSettings
    from eagc_jax.gcd.settings.running import RunSettings


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a method with the settings given, and takes its answer.

    As `eagc discover`, but nothing is rehearsed or chosen. What is not said is as
    `eagc discover` would have it.

    For example: eagc train tickets.csv --aggregator upgrad --epochs 40; eagc train
    photos/ --method rankstats --trains blocks; eagc train tickets.csv --set
    training.learning_rate=0.5 coordination.eep_weight=0.2; eagc train --settings
    run/settings.json --seed 3
    """

    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)
    clustering: ClusteringSettings = dataclasses.field(
        default_factory=ClusteringSettings
    )
    # One of simgcd, rankstats, vanilla, or another that is registered.
    method: Annotated[str | None, arg(metavar="NAME")] = None
    # Of the objectives' gradients, as upgrad, pcgrad or eagc; by default their weighted
    # sum.
    aggregator: Annotated[str | None, arg(metavar="NAME")] = None
    # Coordinate at the feature, too: the published EAGC, with its strengths.
    coordinate: bool = False
    # What trains below the heads: the backbone's last blocks, an adapter on features that
    # are computed once, or nothing.
    trains: Literal["blocks", "adapter", "nothing"] | None = None
    # Of as many items as there are.
    epochs: int | None = None
    # The second view of an unlabeled item is one of so many nearest ones; 0: itself.
    neighbours: int | None = None
    # Any other setting by its name in a run's settings.json, below "run". The value is
    # JSON, or text.
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE")] = ()
    # Of all draws.
    seed: int = 0
    # Folder to write to; by default a new one here, named after the data.
    out: Annotated[pathlib.Path | None, arg(metavar="RUN")] = None
    # Folder of features that were computed before; by default $EAGC_CACHE, or eagc_jax in
    # the user's cache.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None
    # File with the settings of an earlier run; other options change them.
    settings: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None

    @classmethod
    def with_settings(cls, path: str | None) -> Train:
        """The command that a run's settings.json gives back."""
        if path is None:
            return cls()
        from eagc_jax.gcd.runs.discovery import read_settings

        found = read_settings(path)
        return cls(found.source, found.backbone, found.clustering, seed=found.seed)

    def run(self) -> int:
        """Trains, writes the run's folder and prints what was found."""
        from eagc_jax.gcd.cli.running import carry_out
        from eagc_jax.gcd.cli.warned import warnings_as_lines

        with warnings_as_lines():
            settings = self._settings()
        return carry_out(settings, self.out, self.cache)

    def _settings(self) -> DiscoverSettings:
        from eagc_jax.gcd.runs import discovery
        from eagc_jax.gcd.settings import changing

        earlier = discovery.DiscoverSettings()
        if self.settings is not None:
            earlier = discovery.read_settings(self.settings)
        run = earlier.run or self._recommended()
        if earlier.run is None or earlier.seed != self.seed:
            run = changing.changed(run, [f"training.seed={self.seed}"])
        run = changing.changed(run, self._changes())
        if self.epochs is not None:
            run = changing.with_epochs(run, self.epochs)
        return dataclasses.replace(
            earlier,
            source=self.source,
            backbone=self.backbone,
            clustering=self.clustering,
            run=changing.changed(run, self.set),
            seed=self.seed,
            quick=False,
            rehearse=False,
            budget=None,
        )

    def _changes(self) -> list[str]:
        """What options say, as changes of settings."""
        given = {
            "method": self.method,
            "aggregator": self.aggregator,
            "training.trains": self.trains,
            "training.adapter.neighbours": self.neighbours,
            "coordination": "{}" if self.coordinate else None,
        }
        return [f"{name}={value}" for name, value in given.items() if value is not None]

    def _recommended(self) -> RunSettings:
        """What suits the data, as far as `trains` leaves it open."""
        import jax

        from eagc_jax.gcd.settings.running import on_images, recommended
        from eagc_jax.gcd.stages import opening

        if self.trains == "blocks":
            return on_images()
        records = opening.open_records(self.source)
        depth = 0  # as if no block could train
        if self.trains is None and jax.default_backend() != "cpu":
            depth = opening.load_backbone(records, self.backbone).depth
        return recommended(records.kind, depth, items=len(records))
