"""Names of categories and items as names of files, whatever they are called."""

from __future__ import annotations

import re
import unicodedata

from eagc_jax.gcd.sources.strings import shown

_MOST = 120  # bytes of UTF-8; file systems take 255
_UNSAFE = re.compile(r'[\\/:*?"<>|]')
# What Windows takes for a device, with any ending; and what a folder of photos takes for
# its own.
_TAKEN = {
    *("con", "prn", "aux", "nul"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)),
    *("labeled", "labelled", "unlabeled", "unlabelled", "_unlabeled"),
}


def safe(name: str, *, ending: str = "") -> str:
    r"""A name that any file system takes, and that stays in its folder.

    Args:
      name: of anything.
      ending: what the result ends in, such as ".jpg"; it is made safe too.

    Returns:
      One part of a path, at most 120 bytes of UTF-8 long.

    Examples:
      >>> [safe(name) for name in ("../x", "a/b", "con", "x.", "", "a\nb", "größer")]
      ['_._x', 'a_b', 'con_', 'x_', '_', 'a_nb', 'größer']
      >>> safe("x" * 300, ending=".jpg") == "x" * 116 + ".jpg"
      True
    """
    text = unicodedata.normalize("NFC", shown(name))
    text = _UNSAFE.sub("_", text)
    ending = _UNSAFE.sub("_", shown(ending))
    if len(ending.encode()) > 20 or not ending.startswith("."):
        ending = ""
    text = _cut(text, _MOST - len(ending.encode()))
    if text[:1] in (".", " "):
        text = "_" + text[1:]
    if text[-1:] in (".", " "):
        text = text[:-1] + "_"
    first, dot, rest = text.partition(".")
    if first.casefold() in _TAKEN:
        text = f"{first}_{dot}{rest}"
    return (text or "_") + ending


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


class Free:
    """Gives names, each once, also where upper and lower case are the same.

    Examples:
      >>> free = Free()
      >>> free("cat.jpg"), free("Cat.jpg"), free("cat.jpg"), free("dog")
      ('cat.jpg', 'Cat-2.jpg', 'cat-3.jpg', 'dog')
    """

    def __init__(self):
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        """The name, or with a number where it is taken."""
        stem, dot, ending = name.rpartition(".")
        stem, ending = (stem, dot + ending) if stem else (name, "")
        folded = name.casefold()
        found, number = name, self._next.get(folded, 1)
        while found.casefold() in self._taken:
            number += 1
            found = f"{stem}-{number}{ending}"
        self._next[folded] = number
        self._taken.add(found.casefold())
        return found
