"""`eagc export`: what was found, for another tool."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes a run's items and categories in the form that another tool reads.

    For example: eagc export tickets-run --to csv; eagc export photos-run --to folders
    --only novel --at-least 0.8; eagc export photos-run --to label-studio --out tasks
    """

    # Folder of the run.
    folder: Annotated[Positional[pathlib.Path], arg(metavar="RUN")]
    # One of csv, parquet, folders, coco, label-studio, fiftyone.
    to: Annotated[str, arg(metavar="FORMAT")]
    # File or folder to write; by default one named after run and format, beside the run.
    out: Annotated[pathlib.Path | None, arg(metavar="PATH")] = None
    # Which items: all, those without a label, or of these the ones in a novel category.
    only: Literal["all", "unlabeled", "novel"] = "all"
    # Leave out unlabeled items whose probability is lower.
    at_least: float = 0.0
    # Copy photos instead of linking to them. They are never moved.
    copy: bool = False
    # Replace the file if it is there. A folder that an earlier export wrote is replaced
    # in any case, and no other one.
    overwrite: bool = False

    def run(self) -> int:
        """Exports, and says what to do with it."""
        from eagc_jax.gcd import export
        from eagc_jax.gcd.cli.progress import Shown
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.runs.reopening import reopen
        from eagc_jax.gcd.sources.strings import shown

        with Shown() as progress:
            with warnings_as_lines():
                progress.stage("reading the run")
                found = reopen(self.folder, features=False)
            progress.stage("writing")
            done = export.export(
                found.records,
                found.assignment,
                self.out or self._beside(export.formats().get(self.to, "")),
                self.to,
                source=found.settings.source,
                only=self.only,
                at_least=self.at_least,
                copy=self.copy,
                overwrite=self.overwrite,
                on_progress=progress.writing,
            )
        print(f"wrote {shown(done.path)}: {done.items:,} items")
        for note in done.notes:
            print(shown(note))
        return 0

    def _beside(self, ending: str) -> pathlib.Path:
        run = self.folder.absolute()
        return run.with_name(f"{run.name}{ending or '-' + self.to}")
