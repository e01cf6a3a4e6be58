"""What `eagc discover` and `eagc train` do alike: carry settings out, and show it."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eagc_jax.gcd.runs.discovery import DiscoverSettings


def carry_out(
    settings: DiscoverSettings, out: pathlib.Path | None, cache: pathlib.Path | None
) -> int:
    """Discovers, writes the run's folder and prints what was found.

    Args:
      settings: of the discovery.
      out: folder of the run; None for a new one here, named after the data.
      cache: folder of features that were computed before; None for the default.

    Returns:
      The exit code.
    """
    from eagc_jax.gcd import pipeline
    from eagc_jax.gcd.backbones.cache import default_folder
    from eagc_jax.gcd.cli import answer
    from eagc_jax.gcd.cli.progress import Shown
    from eagc_jax.gcd.cli.resuming import says_how_to_go_on
    from eagc_jax.gcd.cli.warned import warnings_as_lines

    out = out or _free_folder(settings.source.data)
    with warnings_as_lines(), says_how_to_go_on(out), Shown() as shown:
        found = pipeline.discover(
            settings,
            out=out,
            cache=cache or default_folder(),
            on_progress=shown.embedding,
            on_stage=shown.stage,
            on_answer=None if settings.quick else answer.show_first,
        )
    answer.show(found)
    return 0


def _free_folder(data: str | None) -> pathlib.Path:
    """A name that nothing has yet."""
    name = pathlib.Path(data or "").name.split(".")[0].split(":")[0] or "data"
    path, number = pathlib.Path(f"{name}-run"), 1
    while path.exists():
        number += 1
        path = pathlib.Path(f"{name}-run-{number}")
    return path
