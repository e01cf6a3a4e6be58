"""One process at a time: a lock that is freed when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import socket
import warnings
from collections.abc import Iterator

from eagc_jax.gcd.sources.strings import shown

LOCK_FILE = ".in_use"
_MOST = 1024  # bytes that are read of a lock file


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Holds a folder for this process alone.

    The lock is the system's, on the file `.in_use` in the folder: it ends with its
    process, also where that is killed. The file stays behind, and means nothing.

    Args:
      path: of the folder, which is made if missing.

    Yields:
      The folder.

    Raises:
      BlockingIOError: another process holds it, or this one in another place; the message
        names the process.
      OSError: the folder can't be made or written.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as parent, locked(parent):
      ...     with locked(parent):
      ...         pass  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      BlockingIOError: [Errno 11] ... is in use by this process: ...
    """
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    # A link in its place would have us write elsewhere.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(folder / LOCK_FILE, flags, 0o644)
    try:
        _lock(handle, folder)
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.truncate(handle, 0)
        os.pwrite(handle, holder.encode(), 0)
        yield folder
    finally:
        os.close(handle)  # which frees it


def _lock(handle: int, folder: pathlib.Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such system
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            errno.EAGAIN,
            f"{shown(folder)} is in use by {_holder(handle)}: wait until it has ended, "
            "or choose another folder",
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warnings.warn(
            f"{shown(folder)} is on a file system without locks: make sure that no other "
            "process uses it",
            stacklevel=4,
        )


def _holder(handle: int) -> str:
    """Who says to hold the lock."""
    try:
        found = json.loads(os.pread(handle, _MOST, 0))
        pid, host = int(found["pid"]), str(found["host"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"
    if host != socket.gethostname():
        return f"process {pid} on {shown(host)}"
    return "this process" if pid == os.getpid() else f"process {pid}"
