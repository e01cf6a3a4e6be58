"""`eagc embed`: features of items, to be used elsewhere."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import arg

from eagc_jax.gcd.settings.choices import BackboneSettings, SourceSettings


@dataclasses.dataclass(frozen=True)
class Embed:
    """Writes the items' features to a file that `eagc discover` reads, too.

    For example: eagc embed photos/ --out photos.npz; eagc embed tickets.csv --out
    tickets.parquet
    """

    # File to write: .npz and .parquet hold ids and labels too; .npy is the matrix alone,
    # with labels, if there are some, in NAME.labels.npy beside it.
    out: Annotated[pathlib.Path, arg(metavar="FILE")]
    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)
    # Replace the file if it is there.
    overwrite: bool = False
    # Folder of features that were computed before.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None

    def run(self) -> int:
        """Embeds, writes, and prints how long it took."""
        from eagc_jax.gcd import backbones
        from eagc_jax.gcd.cli import answer
        from eagc_jax.gcd.cli.progress import Shown
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.runs import features
        from eagc_jax.gcd.sources import BadItem
        from eagc_jax.gcd.stages import opening

        features.check(self.out, overwrite=self.overwrite)
        with warnings_as_lines(), Shown() as shown:
            shown.stage("reading")
            records = opening.open_records(self.source, require_labels=False)
            network = opening.load_backbone(records, self.backbone)
            shown.stage("embedding")
            found = backbones.embed(
                records,
                network,
                cache=self.cache or backbones.cache.default_folder(),
                batch_size=self.backbone.batch_size,
                on_bad_item=self.source.on_bad_item,
                on_progress=shown.embedding,
            )
        written = features.write(self.out, records.select(found.rows), found.features)
        name = self.backbone.name or backbones.default_backbone(records.kind)
        print(
            answer.embedded_line(name, found.embedded, len(found.rows), found.seconds)
        )
        width = found.features.shape[1]
        print(
            f"wrote {', '.join(map(str, written))}: {len(found.rows):,} rows of {width}"
        )
        bad = tuple(BadItem(records.ids[row], error.reason) for row, error in found.bad)
        answer.show_skipped((*records.skipped, *bad))
        return 0
