"""One array that takes long to make, kept under a key."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eagc_jax.gcd.backbones.cache import files

FOLDER = "arrays"


def cached_array(
    folder: str | os.PathLike[str] | None, key: str, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """What `make()` returns, from the cache where it is there already.

    Args:
      folder: of the cache; None keeps nothing.
      key: a text that names everything the array depends on, its inputs' content too.
      make: called if there is no such array; returns it.

    Returns:
      The array, memory-mapped read-only where it comes from the cache.

    Raises:
      OSError: the cache could not be written.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     first = cached_array(folder, "squares of 3", lambda: np.arange(3) ** 2)
      ...     second = cached_array(folder, "squares of 3", lambda: 1 / 0)
      ...     second.tolist()
      [0, 1, 4]
    """
    kept = None if folder is None else kept_array(folder, key)
    if kept is not None:
        return kept
    made = np.asarray(make())
    if folder is not None:
        keep_array(folder, key, made)
    return made


def kept_array(folder: str | os.PathLike[str], key: str) -> np.ndarray | None:
    """The array that is kept under a key, memory-mapped; None where there is none.

    Args:
      folder: of the cache.
      key: see `cached_array`.
    """
    return _read(_path(folder, key))


def keep_array(folder: str | os.PathLike[str], key: str, array: np.ndarray) -> None:
    """Keeps an array under a key.

    Args:
      folder: of the cache.
      key: see `cached_array`.
      array: anything that NumPy makes an array of.

    Raises:
      OSError: the cache could not be written.
    """
    files.write(_path(folder, key), {"array": np.asarray(array)}, {"key": key})


def _path(folder: str | os.PathLike[str], key: str) -> Path:
    return Path(folder) / FOLDER / (files.key(key) + files.SUFFIX)


def _read(path: Path) -> np.ndarray | None:
    try:
        found = files.read_header(path).array("array")
        found.verify()
        with contextlib.suppress(PermissionError):
            os.utime(path)  # the time of last use
        return found.mapped()
    except FileNotFoundError:
        return None
    except files.DamagedFile as error:
        warnings.warn(f"ignored, and made again: {error}", stacklevel=3)
        return None
