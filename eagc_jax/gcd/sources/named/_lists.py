"""Text files that list images, a line each."""

from __future__ import annotations

import pathlib

from eagc_jax.gcd.sources.strings import shown


def read_list(path: pathlib.Path, separator: str, parts: int) -> list[list[str]]:
    """The parts of each line; the last one may hold the separator itself.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line has fewer parts; names the line.
    """
    return split_lines(path.read_text(encoding="utf-8"), path, separator, parts)


def split_lines(
    text: str, place: object, separator: str, parts: int
) -> list[list[str]]:
    """As `read_list`, of text that was read elsewhere."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        values = [value.strip() for value in line.split(separator, parts - 1)]
        if len(values) != parts:
            raise ValueError(
                f"line {number} of {shown(place)} should have {parts} parts, found "
                f"{shown(line)!r}"
            )
        found.append(values)
    return found
