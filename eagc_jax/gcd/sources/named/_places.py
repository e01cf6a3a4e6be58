"""Where data sets that do not come with a package lie on this computer."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from eagc_jax.gcd.sources.strings import shown

# A folder that holds data sets, each under its own name.
DATA_VARIABLE = "EAGC_DATA"


def locate(
    title: str,
    root: str | os.PathLike[str] | None,
    candidates: Sequence[str],
    advice: str,
    elsewhere: Sequence[str] = (),
) -> pathlib.Path:
    """The file or folder of a data set.

    A root that is given is the only place looked at: what is named in `candidates` in
    it, else the root itself. Otherwise, in this order: the folder named by the
    environment variable EAGC_DATA, `data` in the current directory, and places outside
    of both.

    Args:
      title: of the data set, for the message.
      root: what the caller named, or None.
      candidates: names of files or folders inside a folder of data sets.
      advice: how to get the data.
      elsewhere: absolute paths where a system's package puts it.

    Returns:
      The first place that exists.

    Raises:
      FileNotFoundError: none does; the message lists the places and says `advice`.
    """
    if root is not None:
        places = [pathlib.Path(root, name) for name in candidates] + [
            pathlib.Path(root)
        ]
    else:
        roots = [os.environ.get(DATA_VARIABLE), "data"]
        folders = [pathlib.Path(folder) for folder in roots if folder]
        places = [folder / name for folder in folders for name in candidates]
        places += [pathlib.Path(place) for place in elsewhere]
    for place in places:
        if place.exists():
            return place
    looked = places[-1:] if root is not None else places
    raise FileNotFoundError(
        f"{title} was not found. Looked for {', '.join(map(shown, looked))}. {advice} "
        f"Data sets are also looked for in the folder that the environment variable "
        f"{DATA_VARIABLE} names."
    )


def need(title: str, place: pathlib.Path, wanted: str, advice: str) -> pathlib.Path:
    """A file or folder that a data set's root must hold.

    Raises:
      FileNotFoundError: it doesn't; names both.
    """
    found = place / wanted
    if not found.exists():
        raise FileNotFoundError(
            f"{title} should hold {wanted}, not found in {shown(place)}. {advice}"
        )
    return found
