"""Sentences: the items of a column of text, and a file with one on each line."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes the functions of its module compute when it is imported)

from __future__ import annotations

import array
import hashlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eagc_jax.gcd.sources.records import BadItem
from eagc_jax.gcd.sources.strings import RowNumbers, Strings, pack, shown


class Texts:
    """Items that are sentences, held as bytes."""

    def __init__(self, strings: Strings):
        self.strings = strings

    def __len__(self) -> int:
        """N."""
        return len(self.strings)

    def __getitem__(self, row: int) -> str:
        """The sentence."""
        text = self.strings[row]
        if not text.strip():
            raise BadItem(f"row {row}", "the text is empty")
        return text

    def digest(self, row: int) -> bytes:
        """Of its UTF-8 bytes."""
        content = self.strings[row].encode("utf-8", "surrogateescape")
        return hashlib.blake2b(content, digest_size=16).digest()


def empty_rows(strings: Strings) -> np.ndarray:
    """Rows of which nothing is left when white space is taken away."""
    text = strings.array.cast(pa.large_string())
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    return np.flatnonzero(blank.to_numpy(zero_copy_only=False))


def read_lines(path: str | os.PathLike[str]) -> tuple[Strings, RowNumbers]:
    """The lines of a UTF-8 file, and each line's number from 0; blank lines are none.

    Raises:
      ValueError: a line is not UTF-8; the message says which.
    """
    place = pathlib.Path(path)
    numbers = array.array("q")

    def filled() -> Iterator[bytes]:
        for number, line in enumerate(_lines(place)):
            if line.strip():
                numbers.append(number)
                yield line

    lines = Strings(pack(filled()))
    if not len(lines):
        raise ValueError(f"{shown(place)} should hold a text on each line, found none")
    if numbers[-1] + 1 == len(lines):
        return lines, RowNumbers(len(lines))
    return lines, RowNumbers(np.array(numbers))


def _lines(place: pathlib.Path) -> Iterator[bytes]:
    with open(place, "rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{shown(place)} should be UTF-8 text; line {number} (from 0) is "
                    f"not: {error.reason} at byte {error.start}. Save it as UTF-8"
                ) from error
            yield line.rstrip(b"\r\n")
