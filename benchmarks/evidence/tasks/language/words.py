"""Sentences as numbers of words."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np

PAD, UNKNOWN, START, ANSWER = range(4)
RESERVED = 4
_WORD = re.compile(r"[a-z0-9']+")


def split(text: str) -> list[str]:
    """Words in lower case, without punctuation.

    Examples:
      >>> split("Where's my card?")
      ["where's", 'my', 'card']
    """
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Numbers of the most frequent words; of equally frequent ones, in their order."""
    counts = collections.Counter(word for text in texts for word in split(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: n for n, word in enumerate(ranked[: size - RESERVED], RESERVED)}


def encoded(
    texts: Sequence[str] | np.ndarray,
    known: dict[str, int],
    length: int,
    answers: Sequence[str] | None = None,
) -> np.ndarray:
    """``(N, length)`` int32: a start, the words, padding.

    With ``answers`` a mark and the answer's words follow; a text that is too long for
    both loses its own last words.
    """
    found = np.full((len(texts), length), PAD, np.int32)
    for row, text in enumerate(texts):
        numbers = [START, *(known.get(word, UNKNOWN) for word in split(text))]
        if answers is not None:
            answer = [known.get(word, UNKNOWN) for word in split(answers[row])]
            room = max(length - len(answer) - 1, 1)
            numbers = [*numbers[:room], ANSWER, *answer]
        numbers = numbers[:length]
        found[row, : len(numbers)] = numbers
    return found
