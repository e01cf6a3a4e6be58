"""What the parts share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.gpu.clock import Timing, time_calls
from benchmarks.gpu.sizes import Sizes

Row = dict[str, Any]


@dataclasses.dataclass
class Context:
    """Sizes, and what an earlier part found out."""

    sizes: Sizes
    device_kind: str
    copy_bytes_per_second: float | None = None  # the quickest copy

    def time(self, call: Callable[[], Any]) -> Timing:
        """Of one call, as long and as often as the sizes say."""
        return time_calls(call, self.sizes.measure_seconds, self.sizes.rounds)


class Part(NamedTuple):
    """Something that is measured, one row after the other."""

    name: str  # its kind, then what distinguishes it from others of that kind
    title: str  # what the rows are
    names: tuple[str, ...]  # of the rows, in their order
    # Yields each row when it has been measured. Before it yields it may take as long as
    # it takes to compile all of the part's programs.
    rows: Callable[[Context], Iterator[Row]]


def attempt(row: Row, measure: Callable[[], Row]) -> Row:
    """A row with its figures, or with what went wrong instead of them."""
    try:
        return {**row, **measure()}
    except Exception as error:  # out of memory, most of all: the next row may fit
        return {**row, "error": describe(error)}


class TooGood(Exception):
    """A program was quicker than its bytes can be moved: it didn't do its work."""


def check_share(share: float) -> float:
    """A share of the copy bandwidth; raises TooGood above 1."""
    if share > 1:
        raise TooGood(
            f"{share:.2f} of the copy bandwidth can't be: part of the work was left out, "
            "or stayed in a cache"
        )
    return share


def describe(error: BaseException) -> str:
    """One line for the report."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return f"out of memory: {text[:200]}"
    return f"{type(error).__name__}: {text[:300]}"
