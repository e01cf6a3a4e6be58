"""`eagc doctor`: what is installed, and what is wrong with the data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from eagc_jax.gcd.cli import system
from eagc_jax.gcd.cli.cache import size
from eagc_jax.gcd.settings.choices import SourceSettings

if TYPE_CHECKING:
    from eagc_jax.gcd.sources import BadItem, Records

_ROWS = 256  # read by a thread at a time


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Says what is installed, and all that is wrong with DATA, if that is given.

    Without DATA it prints what a bug report needs: versions, devices, which extras are
    complete, which weights are found, the size of the cache. Exit code 1: something is
    wrong with the data.

    For example: eagc doctor; eagc doctor photos/
    """

    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)

    def run(self) -> int:
        """Prints it; returns 1 where the data has problems."""
        for line in (*system.report(), *_backbones(), *_cache()):
            print(line)
        if self.source.data is None:
            return 0
        problems = 0
        for line in _problems(self.source):
            problems += 1
            print(f"problem: {line}")
        print(f"{problems} problems found" if problems else "the data can be read")
        return 1 if problems else 0


def _backbones() -> Iterator[str]:
    from eagc_jax.gcd import backbones

    for name in backbones.names():
        if name == "embeddings":
            continue
        try:
            network = backbones.load(name)
        except (ImportError, OSError, ValueError) as error:
            yield f"backbone {name}: {error}"
        else:
            yield f"backbone {name}: weights found, features of width {network.width}"


def _cache() -> Iterator[str]:
    from eagc_jax.gcd.backbones import cache

    folder = cache.default_folder()
    total = sum(entry.bytes for entry in cache.describe(folder))
    shown = str(folder).replace(os.path.expanduser("~"), "~", 1)  # no name of a person
    yield f"cache {shown}: {size(total)}"


def _problems(settings: SourceSettings) -> Iterator[str]:
    """All that is found: how the data is laid out, and every item that is bad."""
    from eagc_jax.gcd.stages import opening

    skip = dataclasses.replace(settings, on_bad_item="skip")
    records = None
    try:
        records = opening.open_records(skip)
    except (ValueError, OSError) as error:
        yield str(error)
        try:  # its items can be looked at all the same
            records = opening.open_records(skip, require_labels=False)
        except (ValueError, OSError) as other:
            if str(other) != str(error):
                yield str(other)
    if records is None:
        return
    labeled = int(records.labeled_mask.sum())
    print(
        f"{records.name}: {len(records):,} items of kind {records.kind}, {labeled:,} "
        f"labeled with {records.num_known} classes"
    )
    yield from map(str, records.skipped)
    yield from map(str, _bad_items(records))


def _bad_items(records: Records) -> Iterator[BadItem]:
    """Every item is read."""
    from eagc_jax.gcd.sources import BadItem

    def some(start: int) -> list[BadItem]:
        bad = []
        for row in range(start, min(start + _ROWS, len(records))):
            try:
                records.items[row]
            except BadItem as error:
                bad.append(error)
        return bad

    with ThreadPoolExecutor() as pool:
        for bad in pool.map(some, range(0, len(records), _ROWS)):
            yield from bad
