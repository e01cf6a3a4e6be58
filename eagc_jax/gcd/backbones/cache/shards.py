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


def open_shard(path: Path) -> files.Contents:
    """Its header and its digests, checked; raises `DamagedFile`."""
    shard = files.read_header(path)
    digests, features = shard.array("digests"), shard.array("features")
    if digests.shape != (*features.shape[:1], DIGEST.itemsize):
        raise files.DamagedFile(path, "as many digests as features are needed")
    digests.verify()
    return shard


def check_width(shard: files.Contents, width: int) -> None:
    """Raises `DamagedFile` if the features are of another width."""
    features = shard.array("features")
    if features.shape[1:] != (width,) or features.dtype != np.float32:
        raise files.DamagedFile(
            features.path, f"{features.dtype} {features.shape}, not (n, {width})"
        )


def digests_of(shard: files.Contents) -> np.ndarray:
    """(n,) of dtype S16, in memory."""
    return np.array(shard.array("digests").mapped()).view(DIGEST).reshape(-1)


def as_bytes(digests: np.ndarray) -> np.ndarray:
    """(n,) digests of dtype S16 to (n, 16) uint8."""
    return np.ascontiguousarray(digests, DIGEST).view(np.uint8).reshape(-1, 16)


def damage(shard: files.Contents) -> files.DamagedFile | None:
    """What is wrong with a shard's features; notes that the shard was used."""
    features = shard.array("features")
    try:
        features.verify()
        with contextlib.suppress(PermissionError):
            os.utime(features.path)
    except FileNotFoundError:
        return files.DamagedFile(features.path, "pruned by another program meanwhile")
    except files.DamagedFile as error:
        return error
