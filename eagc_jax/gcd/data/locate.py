"""Where data sets that do not come with a package lie on this computer."""

import os
import pathlib
from collections.abc import Sequence

# A folder that holds data sets, each under its own name.
DATA_VARIABLE = "EAGC_DATA"


def locate(
    title: str,
    path: str | os.PathLike | None,
    candidates: Sequence[str],
    advice: str,
    elsewhere: Sequence[str] = (),
) -> pathlib.Path:
    """The file or folder of a data set.

    A path that is given is the only place looked at. Otherwise, in this order: the
    folder named by the environment variable EAGC_DATA, `data` in the current directory,
    and places outside of both.

    Args:
      title: of the data set, for the message.
      path: what the caller named, or None.
      candidates: names of files or folders inside a folder of data sets.
      advice: how to get the data.
      elsewhere: absolute paths where a system's package puts it.

    Returns:
      The first place that exists.

    Raises:
      FileNotFoundError: none does; the message lists the places and says `advice`.
    """
    if path is not None:
        places = [pathlib.Path(path)]
    else:
        roots = [os.environ.get(DATA_VARIABLE), "data"]
        folders = [pathlib.Path(root) for root in roots if root]
        places = [folder / name for folder in folders for name in candidates]
        places += [pathlib.Path(place) for place in elsewhere]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{title} was not found. Looked for {', '.join(map(str, places))}. {advice} "
        f"Data sets are also looked for in the folder that the environment variable "
        f"{DATA_VARIABLE} names."
    )
