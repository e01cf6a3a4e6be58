"""`eagc discover`: which categories are in the data."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from eagc_jax.gcd.runs.choices import (
    BackboneSettings,
    ClusteringSettings,
    SourceSettings,
)

if TYPE_CHECKING:
    from eagc_jax.gcd.runs.discovery import DiscoverSettings

_NOT_YET = (
    "this is the first answer, as with --quick; --train goes on from it. How far to "
    "trust an answer, and a page to work on, are not built yet"
)


@dataclasses.dataclass(frozen=True)
class Discover:
    """Puts unlabeled items into known classes and new categories.

    For example: eagc discover photos/ --quick; eagc discover tickets.csv --quick
    --num-classes 77 --out run; eagc discover --settings run/settings.json
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
    # Train after the first answer: on a CPU an adapter on the features, on an accelerator
    # the last block of a photo network.
    train: bool = False
    # Folder to write to; by default a new one here, named after the data.
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
        return cls(found.source, found.backbone, found.clustering, found.seed)

    def run(self) -> int:
        """Discovers, writes the run's folder and prints what was found."""
        from eagc_jax.gcd import discover
        from eagc_jax.gcd.backbones import cache
        from eagc_jax.gcd.cli import answer
        from eagc_jax.gcd.cli.progress import Shown
        from eagc_jax.gcd.cli.warned import warnings_as_lines

        settings = self._settings()
        with warnings_as_lines(), Shown() as shown:
            found = discover.discover(
                settings,
                out=self.out or _free_folder(settings.source.data),
                cache=self.cache or cache.default_folder(),
                on_progress=shown.embedding,
                on_stage=shown.stage,
            )
        answer.show(found)
        if found.training is None and not self.quick:
            print(_NOT_YET)
        return 0

    def _settings(self) -> DiscoverSettings:
        from eagc_jax.gcd.runs import discovery

        run, train = None, self.train
        if self.settings is not None:
            earlier = discovery.read_settings(self.settings)
            run, train = earlier.run, train or earlier.train
        return discovery.DiscoverSettings(
            self.source,
            self.backbone,
            self.clustering,
            None if self.quick else run,
            self.seed,
            train and not self.quick,
        )


def _free_folder(data: str | None) -> pathlib.Path:
    """A name that nothing has yet."""
    name = pathlib.Path(data or "").name.split(".")[0].split(":")[0] or "data"
    path, number = pathlib.Path(f"{name}-run"), 1
    while path.exists():
        number += 1
        path = pathlib.Path(f"{name}-run-{number}")
    return path
