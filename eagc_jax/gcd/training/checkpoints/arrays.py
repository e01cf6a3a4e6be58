"""Named arrays as an Orbax checkpoint, of which no byte is read before it is checked."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from eagc_jax.gcd.runs.reading import read_json
from eagc_jax.gcd.sources.strings import shown

Shapes = Mapping[str, jax.ShapeDtypeStruct]

# Orbax's own files, and how large they may be.
_OWN = ("_METADATA", "_CHECKPOINT_METADATA", "commit_success.txt")
_OWN_MOST = 2**24
_HEADER = ".zarray"
_HEADER_MOST = 2**12
_FILES_MOST = 100_000


class Damaged(ValueError):
    """What was found is not what was written."""


def write(folder: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, none of them empty, into a new folder; plain, without compression.

    Without it, a file is as large as the array that comes out of it.
    """
    with _quiet(), _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(dict(arrays)))


def read(folder: pathlib.Path, expected: Shapes) -> dict[str, np.ndarray]:
    """The arrays of these names, shapes and types.

    Args:
      folder: to which `write` wrote them; or anybody anything.
      expected: by name.

    Raises:
      Damaged: files are missing, or too many, or not of the sizes that these arrays have.
    """
    check(folder, expected)
    plain = ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(
        item=dict(expected), restore_args=dict.fromkeys(expected, plain)
    )
    try:
        with _quiet(), _checkpointer() as checkpointer:
            found = checkpointer.restore(folder.absolute(), args=args)
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise Damaged(f"{shown(folder)} can't be read: {error}") from error
    for name, wanted in expected.items():
        one = found[name]
        if one.shape != wanted.shape or one.dtype != wanted.dtype:
            raise Damaged(f"{shown(folder)}: {name} is {one.dtype} {one.shape}")
    return found


def check(folder: pathlib.Path, expected: Shapes) -> None:
    """Raises Damaged unless the files are those of the arrays, byte for byte as large."""
    sizes = file_sizes(folder)
    wanted = {f"{name}/{_HEADER}": _HEADER_MOST for name in expected}
    wanted |= {f"{n}/{_chunk(one)}": _bytes(one) for n, one in expected.items()}
    own = dict.fromkeys(_OWN, _OWN_MOST)
    for name, size in sizes.items():
        most = {**wanted, **own}.get(name)
        if most is None:
            raise Damaged(f"{shown(folder)} holds {shown(name)}, which is not expected")
        if size > most:
            raise Damaged(
                f"{shown(folder)}: {name} should have at most {most:,} bytes, found "
                f"{size:,}"
            )
    for name, one in expected.items():
        if sizes.get(f"{name}/{_chunk(one)}") != _bytes(one):
            raise Damaged(f"{shown(folder)}: {name} is missing or too short")
        _check_header(folder / name / _HEADER, one)


def file_sizes(folder: pathlib.Path) -> dict[str, int]:
    """Bytes of every file by its path in the folder.

    Raises:
      Damaged: something in it is neither a file nor a folder: a link, say; or there are
        too many of them.
    """
    sizes: dict[str, int] = {}
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if len(sizes) + len(waiting) > _FILES_MOST:
                    raise Damaged(f"{shown(folder)} holds too many files")
                mode = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(mode.st_mode):
                    waiting.append(pathlib.Path(entry.path))
                elif stat.S_ISREG(mode.st_mode):
                    name = pathlib.Path(entry.path).relative_to(folder).as_posix()
                    sizes[name] = mode.st_size
                else:
                    raise Damaged(
                        f"{shown(entry.path)} should be a file or a folder, found a "
                        "link or a device"
                    )
    return sizes


def _check_header(path: pathlib.Path, expected: jax.ShapeDtypeStruct) -> None:
    try:
        header = read_json(path, most=_HEADER_MOST)
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from error
    shape = list(expected.shape)
    wanted = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": shape,
        "compressor": None,
        "filters": None,
        "order": "C",
        "dtype": _dtype(expected.dtype),
    }
    found = {name: header.get(name) for name in wanted}
    if found != wanted:
        raise Damaged(
            f"{shown(path)} should say {json.dumps(wanted)}, found "
            f"{shown(json.dumps(found))[:300]}"
        )


def _dtype(dtype: DTypeLike) -> str:
    """As Zarr spells it; types that NumPy has not are named."""
    dtype = np.dtype(dtype)
    return dtype.name if dtype.kind == "V" else dtype.str


def _chunk(one: jax.ShapeDtypeStruct) -> str:
    """The name of the file that holds all of an array."""
    return ".".join("0" for _ in one.shape) or "0"


def _bytes(one: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(one.shape, dtype=np.int64)) * np.dtype(one.dtype).itemsize


def _checkpointer() -> ocp.Checkpointer:
    # By this process alone: every process has all arrays.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    if jax.process_count() == 1:
        alone = ocp.options.MultiprocessingOptions()
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, multiprocessing_options=alone
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs what its errors say once more."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
