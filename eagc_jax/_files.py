"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO, TypeAlias

#: An object of a JSON file, as Python reads it.
JsonObject: TypeAlias = dict[str, Any]

_MODE = 0o644  # temporary files are private; what is written is to be read


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes text as UTF-8, line breaks as they are: see :func:`write_with`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes: see :func:`write_with`."""
    write_with(path, lambda file: file.write(content))


def write_with(
    path: str | os.PathLike[str], writer: Callable[[BinaryIO], object]
) -> None:
    """Writes a file that others see whole or not at all.

    It is written under another name in the same folder, brought to the disk and renamed.
    Where anything fails, what was there before stays and nothing is left beside it.

    Args:
      path: of the file. Its folder is made if missing; a file of that name is replaced.
      writer: called once with the open binary file, which may be written anywhere in it:
        ``lambda file: np.savez(file, **arrays)``.

    Raises:
      OSError: the folder can't be written, or the disk is full.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   path = pathlib.Path(folder, "run", "epochs.csv")
      ...   write_with(path, lambda file: file.write(b"epoch,loss"))
      ...   path.read_text()
      'epoch,loss'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name that nobody reads until every byte is on the disk.
    handle, partial = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".partial"
    )
    try:
        with os.fdopen(handle, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, _MODE)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Brings the new name to the disk too, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
