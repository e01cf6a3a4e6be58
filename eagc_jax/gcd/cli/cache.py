"""`eagc cache`: what features are kept, and making room."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Annotated

from tyro.conf import arg

_GIGABYTE = 10**9
_DAY = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Show:
    """Lists what the cache holds."""


@dataclasses.dataclass(frozen=True)
class Prune:
    """Removes damaged files, and what the options say.

    Features that are needed again are computed again.
    """

    # Remove what was used longest ago until no more is left.
    keep_gigabytes: float | None = None
    # Remove what was not used for so long.
    older_than_days: float | None = None
    # Only of backbones whose name in `eagc cache show` begins so.
    backbone: Annotated[str | None, arg(metavar="NAME")] = None
    # Only say what would be removed.
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class Cache:
    """Shows the features that are kept, or makes room.

    For example: eagc cache show; eagc cache prune --older-than-days 30 --dry-run
    """

    action: Show | Prune = Show()
    # The cache's folder; by default $EAGC_CACHE, or eagc_jax in the user's cache.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None

    def run(self) -> int:
        """Does it, and prints what there is or what went."""
        from eagc_jax.gcd.backbones import cache

        folder = self.cache or cache.default_folder()
        if isinstance(self.action, Show):
            _show(folder)
        else:
            _prune(folder, self.action)
        return 0


def _show(folder: pathlib.Path) -> None:
    from eagc_jax.gcd.backbones import cache
    from eagc_jax.gcd.sources.strings import shown

    entries = cache.describe(folder)
    total = sum(entry.bytes for entry in entries)
    print(f"{folder}: {size(total)} in {len(entries)} entries")
    for entry in entries:
        days = int((time.time() - entry.last_used) / _DAY)
        used = f"used {days} days ago" if days else "used today"
        damaged = f", {len(entry.damaged)} damaged files" if entry.damaged else ""
        print(
            f"  {entry.backbone}: {entry.items:,} rows, {size(entry.bytes)}, {used}"
            f"{damaged}"
        )
        if entry.preparation:  # the same backbone may have several
            print(f"    {shown(entry.preparation)}")


def _prune(folder: pathlib.Path, wanted: Prune) -> None:
    from eagc_jax.gcd.backbones import cache

    keep, days = wanted.keep_gigabytes, wanted.older_than_days
    removed = cache.prune(
        folder,
        keep_bytes=None if keep is None else int(keep * _GIGABYTE),
        older_than=None if days is None else days * _DAY,
        backbone=wanted.backbone,
        dry_run=wanted.dry_run,
    )
    verb = "would remove" if wanted.dry_run else "removed"
    print(f"{verb} {len(removed.paths)} files, {size(removed.bytes)}, from {folder}")


def size(number: float) -> str:
    """Bytes, for people.

    Examples:
      >>> size(1_234_567)
      '1.2 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            break
        number, unit = number / 1000, unit
    else:
        unit = "TB"
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
