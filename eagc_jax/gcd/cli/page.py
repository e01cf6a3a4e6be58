"""`eagc page`: a run to look at and to decide on, in a browser."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Page:
    """Writes the page of a run: one HTML file, with everything inside.

    On it clusters are named, merged, split, identified or thrown away; what is decided is
    saved as a file for `eagc discover --decisions` and `eagc predict --decisions`. For
    example: eagc page tickets-run --open
    """

    # Folder of the run.
    folder: Annotated[Positional[pathlib.Path], arg(metavar="RUN")]
    # File to write; by default page.html in the run's folder.
    out: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # Open it in the browser, too.
    open: bool = False
    # Of the file at most; pictures are made as small as that asks for.
    max_megabytes: float = 15.0
    # Folder of features that were computed before; by default $EAGC_CACHE, or eagc_jax in
    # the user's cache.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None

    def run(self) -> int:
        """Writes it, and says where it is."""
        from eagc_jax.gcd.backbones import cache
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.report.explorer import write_page
        from eagc_jax.gcd.runs.discovery import PAGE_FILE
        from eagc_jax.gcd.runs.reopening import reopen
        from eagc_jax.gcd.sources.strings import shown

        path = self.out or self.folder / PAGE_FILE
        with warnings_as_lines():
            found = reopen(self.folder, cache=self.cache or cache.default_folder())
            write_page(found, path, max_bytes=int(self.max_megabytes * 1e6))
        print(f"wrote {shown(path)}: {path.stat().st_size / 1e6:.1f} MB")
        if self.open:
            _open(path.resolve())
        return 0


def _open(path: pathlib.Path) -> None:
    import webbrowser

    if not webbrowser.open(path.as_uri()):
        print("no browser was found; open the file in one")
