"""`eagc label`: a name for a cluster."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Label:
    """Names a cluster in a run's assignment, model and page.

    The next `eagc discover --decisions RUN/decisions.json` takes its items as labeled
    with that class. For example: eagc label tickets-run 7 "card stolen"; eagc label
    tickets-run novel-3 "card stolen"
    """

    # Folder of the run.
    folder: Annotated[Positional[pathlib.Path], arg(metavar="RUN")]
    # The cluster's name; or its number, from 0, as in the column cluster.
    cluster: Annotated[Positional[str], arg(metavar="CLUSTER")]
    # Its new name.
    name: Annotated[Positional[str], arg(metavar="NAME")]

    def run(self) -> int:
        """Names it, and says in which files."""
        from eagc_jax.gcd import labeling
        from eagc_jax.gcd.sources.strings import shown

        done = labeling.label(self.folder, self.cluster, self.name)
        print(
            f"cluster {done.number}, {shown(done.before)} with {done.items:,} items, is "
            f"now called {shown(done.name)}"
        )
        print(f"wrote {shown(self.folder)}: {', '.join(done.files)}")
        return 0
