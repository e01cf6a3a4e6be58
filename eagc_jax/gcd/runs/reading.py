"""Reading what a run's folder holds: whoever wrote it, it is only data, and bounded."""

from __future__ import annotations

import json
import os
import pathlib

from eagc_jax._files import JsonObject
from eagc_jax.gcd.sources.strings import shown

MEGABYTE = 2**20


def read_json(path: str | os.PathLike[str], *, most: int = 64 * MEGABYTE) -> JsonObject:
    """The object that a JSON file holds.

    Args:
      path: of the file.
      most: bytes; a larger file is not read.

    Returns:
      Its entries.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is larger, no JSON, or no object; the message names the file.

    Examples:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "settings.json")
      >>> _ = path.write_text('{"seed": 3}')
      >>> read_json(path)
      {'seed': 3}
    """
    path = pathlib.Path(path)
    content = read_bytes(path, most=most)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or too deep
        raise ValueError(f"{shown(path)} can't be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{shown(path)} should hold a JSON object, found {type(found).__name__}"
        )
    return found


def read_bytes(path: str | os.PathLike[str], *, most: int) -> bytes:
    """What a file holds.

    Args:
      path: of the file.
      most: bytes; a larger file is not read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is larger.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} was not found, or is no file")
    size = path.stat().st_size
    if size <= most:
        with open(path, "rb") as file:
            content = file.read(most + 1)  # some files have more than they say
        size = len(content)
        if size <= most:
            return content
    raise ValueError(
        f"{shown(path)} should be at most {most:,} bytes, found {size:,}: it is not read"
    )


def member(folder: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The path of a file that a run's folder may hold; it need not be there.

    Raises:
      ValueError: it is a link to a place outside of the folder.
    """
    inside(folder, name)
    return pathlib.Path(folder, name)


def inside(
    folder: str | os.PathLike[str], name: str | os.PathLike[str]
) -> pathlib.Path:
    """The path of a file in a folder, whose name came out of a file.

    Args:
      folder: which must hold it.
      name: relative to it.

    Returns:
      The path, with links resolved.

    Raises:
      ValueError: it lies elsewhere, or is reached by a link from there.

    Examples:
      >>> inside("run", "../other")
      Traceback (most recent call last):
      ...
      ValueError: '../other' should lie in run, found a path outside of it
    """
    root = pathlib.Path(folder).resolve()
    path = (root / name).resolve()
    if path != root and root not in path.parents:
        raise ValueError(
            f"{shown(repr(os.fspath(name)))} should lie in {shown(folder)}, found a path "
            "outside of it"
        )
    return path
