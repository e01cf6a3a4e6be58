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
    if folder is None:
        return make()
    path = Path(folder) / FOLDER / (files.key(key) + files.SUFFIX)
    kept = _read(path)
    if kept is None:
        kept = np.asarray(make())
        files.write(path, {"array": kept}, {"key": key})
    return kept


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
