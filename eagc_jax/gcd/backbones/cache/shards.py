"""A shard: digests of contents beside their features, in one file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eagc_jax.gcd.backbones.cache import files

DIGEST = np.dtype("S16")  # sorts as bytes do; all have the same length


def write_shard(
    path: Path, digests: np.ndarray, features: np.ndarray, about: Mapping[str, str]
) -> None:
    """(n,) digests of dtype S16 and their (n, width) features; `about` says whose."""
    files.write(path, {"digests": as_bytes(digests), "features": features}, about)


def open_shard(path: Path, width: int) -> tuple[np.ndarray, files.Kept]:
    """Its digests (n,) of dtype S16, checked, and where its features are.

    Raises:
      DamagedFile: it can't be read, or the features are not (n, width) float32.
      FileNotFoundError: it has gone.
    """
    shard = files.read_header(path)
    digests, features = shard.array("digests"), shard.array("features")
    count = features.shape[:1]
    if not (
        features.shape == (*count, width)
        and digests.shape == (*count, DIGEST.itemsize)
        and features.dtype == np.float32
    ):
        raise files.DamagedFile(
            path,
            f"features {features.shape} of {features.dtype} with digests "
            f"{digests.shape}, not (n, {width}) of float32 with (n, {DIGEST.itemsize})",
        )
    digests.verify()
    return np.array(digests.mapped()).view(DIGEST).reshape(-1), features


def as_bytes(digests: np.ndarray) -> np.ndarray:
    """(n,) digests of dtype S16 to (n, 16) uint8."""
    return np.ascontiguousarray(digests, DIGEST).view(np.uint8).reshape(-1, 16)


def damage(features: files.Kept) -> files.DamagedFile | None:
    """What is wrong with a shard's features; notes that the shard was used."""
    try:
        features.verify()
        with contextlib.suppress(PermissionError):
            os.utime(features.path)
    except FileNotFoundError:
        return files.DamagedFile(features.path, "pruned by another program meanwhile")
    except files.DamagedFile as error:
        return error
