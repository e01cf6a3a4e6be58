"""`eagc discover`: which categories are in the data."""

from __future__ import annotations

import dataclasses
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
    from eagc_jax.gcd.runs.discovery import DiscoverSettings


@dataclasses.dataclass(frozen=True)
class Discover:
    """Puts unlabeled items into known classes and new categories.

    Embeds, gives a first answer, rehearses how far to trust it, trains, and writes a
    folder with assignment, page and model.

    For example: eagc discover photos/; eagc discover tickets.csv --budget 5m --out run;
    eagc discover tickets.csv --quick --num-classes 77; eagc discover --settings
    run/settings.json --decisions decisions.json
    """

    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)
    clustering: ClusteringSettings = dataclasses.field(
        default_factory=ClusteringSettings
    )
    # Of all draws.
    seed: int = 0
    # Stop at the first answer, before any training.
    quick: bool = False
    # Train without a rehearsal, and take what training gives.
    no_rehearsal: bool = False
    # How often known classes are hidden and found again, each time others.
    rehearsals: int = 3
    # Aggregators to rehearse training with, too, such as upgrad, pcgrad and eagc; the one
    # with which hidden classes are found best is taken.
    coordinators: tuple[str, ...] = ()
    # Numbers of neighbours to rehearse training with, too: a second view of an unlabeled
    # item is one of its ten nearest, or of so many; 0 for the item itself.
    neighbours: tuple[int, ...] = ()
    # Time for all of it, as in 90s, 5m or 1h30m; what is left out to fit it is said.
    budget: Annotated[str | None, arg(metavar="TIME")] = None
    # File of decisions that a page or `eagc label` saved; they are obeyed.
    decisions: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # Write training's event files for TensorBoard, too.
    tensorboard: bool = False
    # Folder to write to; by default a new one here, named after the data. Given again, a
    # run that was interrupted goes on.
    out: Annotated[pathlib.Path | None, arg(metavar="RUN")] = None
    # Folder of features that were computed before; by default $EAGC_CACHE, or eagc_jax in
    # the user's cache.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None
    # File with the settings of an earlier run; other options change them.
    settings: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None

    @classmethod
    def with_settings(cls, path: str | None) -> Discover:
        """The command that a run's settings.json gives back."""
        if path is None:
            return cls()
        from eagc_jax.gcd.runs.discovery import read_settings

        found = read_settings(path)
        return cls(
            found.source,
            found.backbone,
            found.clustering,
            seed=found.seed,
            rehearsals=found.rehearsals,
            coordinators=found.coordinators,
            neighbours=found.neighbours,
            budget=None if found.budget is None else f"{found.budget:g}s",
            decisions=pathlib.Path(found.decisions) if found.decisions else None,
        )

    def run(self) -> int:
        """Discovers, writes the run's folder and prints what was found."""
        from eagc_jax.gcd.cli.running import carry_out

        return carry_out(self._settings(), self.out, self.cache)

    def _settings(self) -> DiscoverSettings:
        from eagc_jax.gcd.runs import discovery

        # Flags of an earlier run stay; here they may be added.
        earlier = discovery.DiscoverSettings()
        if self.settings is not None:
            earlier = discovery.read_settings(self.settings)
        decisions, quick = self.decisions, self.quick or earlier.quick
        return discovery.DiscoverSettings(
            self.source,
            self.backbone,
            self.clustering,
            run=earlier.run,
            seed=self.seed,
            quick=quick,
            rehearse=earlier.rehearse and not self.no_rehearsal,
            rehearsals=self.rehearsals,
            coordinators=self.coordinators,
            neighbours=self.neighbours,
            budget=None if self.budget is None else seconds_of(self.budget),
            decisions=None if decisions is None else str(decisions),
            tensorboard=self.tensorboard or earlier.tensorboard,
        )
