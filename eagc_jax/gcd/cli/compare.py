"""`eagc compare`: runs of the same data beside each other."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares runs of the same data: settings, figures, and where they disagree.

    For example: eagc compare tickets-run tickets-run-2; eagc compare a-run b-run c-run
    --json > comparison.json
    """

    # Folders of two runs or more; each is compared with the first.
    folders: Annotated[Positional[tuple[pathlib.Path, ...]], arg(metavar="RUN RUN")]
    # Print JSON, with every item that changed.
    json: bool = False

    def run(self) -> int:
        """Compares them, and prints the comparison."""
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.runs.comparison import beside, discoveries

        with warnings_as_lines():
            found = discoveries.compare([discoveries.read_run(x) for x in self.folders])
        if self.json:
            print(json.dumps(discoveries.plain(found), indent=2, allow_nan=False))
        else:
            print("\n".join(beside.lines(found)))
        return 0
