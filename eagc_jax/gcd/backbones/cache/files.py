"""The cache's folder and its files: written whole or not at all, read memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

_OURS = "eagc_jax cache "
FORMAT = _OURS + "1"  # a reader ignores files of another one
SUFFIX = ".safetensors"
PART = ".part"  # ends the name of a file that is still being written
_PIECE = 2**24  # bytes that are read at once to check a sum

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
}  # fmt: skip


class DamagedFile(ValueError):
    """A file of the cache that can't be used: which, and why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class OtherFormat(DamagedFile):
    """A file of another version of the cache, or of somebody else's."""

    def __init__(self, path: Path, found: str | None):
        super().__init__(path, f"of format {found!r}; this version reads {FORMAT!r}")
        self.is_ours: bool = found is not None and found.startswith(_OURS)


class Kept(NamedTuple):
    """One array in a file: where its bytes begin, and their checksum."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    checksum: str

    def mapped(self) -> np.ndarray:
        """The array, read-only; pages come in as they are touched."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        flat = (math.prod(self.shape),)
        array = np.memmap(self.path, self.dtype, "r", self.offset, flat)
        return array.reshape(self.shape)

    def verify(self) -> None:
        """Reads the bytes, not through a mapping, so that none of them stay resident."""
        found = 0
        left = math.prod(self.shape) * self.dtype.itemsize
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while left and (piece := file.read(min(left, _PIECE))):
                found = zlib.crc32(piece, found)
                left -= len(piece)
        if left or f"{found:08x}" != self.checksum:
            raise DamagedFile(self.path, "its checksum is another")


class Contents(NamedTuple):
    """What the header of a file says."""

    path: Path
    metadata: dict[str, str]
    arrays: dict[str, Kept]

    def array(self, name: str) -> Kept:
        """The one of that name; raises `DamagedFile`."""
        if name not in self.arrays:
            raise DamagedFile(self.path, f"no array {name!r} in it")
        return self.arrays[name]


def default_folder() -> Path:
    """`$EAGC_CACHE`, else `eagc_jax` in `$XDG_CACHE_HOME` or in `~/.cache`.

    Returns:
      The folder, which need not exist.

    Examples:
      >>> import unittest.mock
      >>> with unittest.mock.patch.dict(os.environ, EAGC_CACHE="/scratch/features"):
      ...     default_folder().as_posix()
      '/scratch/features'
    """
    if named := os.environ.get("EAGC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eagc_jax"


def key(*texts: str) -> str:
    """32 hexadecimal digits that stand for the texts, and for this format."""
    joined = json.dumps([FORMAT, *texts]).encode()
    return hashlib.blake2b(joined, digest_size=16).hexdigest()


def write(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes one file, with a checksum for each array.

    Raises:
      OSError: it could not be written; nothing is left under `path`.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sums = {f"crc32 {name}": _checksum(array) for name, array in arrays.items()}
    content = safetensors.numpy.save(arrays, {**metadata, "format": FORMAT, **sums})
    with say_which_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, content)


def read_header(path: Path) -> Contents:
    """What is in a file, its arrays' bytes unread.

    Raises:
      DamagedFile: it is truncated, not of this format, or not readable.
      FileNotFoundError: it has gone, as another program pruned.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:  # checks the file's length
            metadata = dict(file.metadata() or {})
        return Contents(path, metadata, _arrays(path, metadata))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(path, f"not a file of the cache ({error})") from error


@contextlib.contextmanager
def say_which_folder(folder: Path) -> Iterator[None]:
    """Turns an OSError (a full disk, no permission) into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"the cache in {folder} could not be written ({error.strerror or error}); "
            "make room there, prune the cache, or choose another folder by EAGC_CACHE",
        ) from error


def _checksum(array: np.ndarray) -> str:
    return f"{zlib.crc32(array.tobytes() if 0 in array.shape else array.data):08x}"


def _arrays(path: Path, metadata: Mapping[str, str]) -> dict[str, Kept]:
    found = metadata.get("format")
    if found != FORMAT:
        raise OtherFormat(path, found)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: Kept(
            path,
            np.dtype(_DTYPES[header[name]["dtype"]]),
            tuple(header[name]["shape"]),
            8 + length + header[name]["data_offsets"][0],
            metadata[f"crc32 {name}"],
        )
        for name in header
        if name != "__metadata__"
    }


def _write_whole(path: Path, content: bytes) -> None:
    """To a name of its own beside `path`, then renamed."""
    temporary = path.with_name(f"{path.stem}-{secrets.token_hex(8)}{PART}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without bytes
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
