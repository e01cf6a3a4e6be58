"""Features by digest of content: shards that are only ever added."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from eagc_jax.gcd.backbones.cache import files, shards

FOLDER = "features"
_SHARD_BYTES = 2**26
# A killed program loses what it has not written: so many seconds, or later a twentieth
# of the time that it has run, which keeps the number of shards of a long run small.
_SECONDS, _FRACTION = 20.0, 0.05
_IN_MEMORY = 2**28  # bytes; more features than that are left in a file
_ROW_BITS = 32  # a position is the shard's number and, below, the row in it


class FeatureStore:
    """The features of one backbone with one preparation.

    It takes 24 bytes of memory for each row that the folder has, and as much again
    for a moment when it sorts them: an index of sorted digests and of positions. The
    features stay in the files until they are asked for.

    Args:
      folder: of the cache.
      backbone: its fingerprint.
      preparation: what is done to an item before.
      width: of the feature.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     store = FeatureStore(folder, "tiny", "none", width=2)
      ...     store.add(np.array([b"a" * 16]), np.ones((1, 2), np.float32))
      ...     store.flush()
      ...     again = FeatureStore(folder, "tiny", "none", width=2)
      ...     found = again.find(np.array([b"a" * 16, b"b" * 16]))
      ...     (found >= 0).tolist(), again.take(found[:1]).tolist()
      ([True, False], [[1.0, 1.0]])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        backbone: str,
        preparation: str,
        width: int,
    ):
        self.folder: Path = Path(folder) / FOLDER / files.key(backbone, preparation)
        self._about = {"backbone": backbone, "preparation": preparation}
        self._width = width
        self._shards: list[files.Kept] = []  # their features
        self._verified: set[int] = set()
        self._known = np.empty(0, shards.DIGEST)  # sorted
        self._where = np.empty(0, np.int64)  # positions of these
        self._unsorted: list[tuple[np.ndarray, np.ndarray]] = []  # more of both
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._started = self._written = time.monotonic()
        for path in sorted(self.folder.glob("*" + files.SUFFIX)):
            self._open(path)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Where the features of these contents are.

        Shards that are asked for the first time are checked; damaged ones are named in
        a warning and left out.

        Args:
          digests: (n,) of dtype S16.

        Returns:
          (n,) int64 positions for `take`, -1 where there is none.
        """
        positions = self._search(digests)
        while self._strike_off_damaged(positions):
            positions = self._search(digests)
        return positions

    def take(self, positions: np.ndarray) -> np.ndarray:
        """(n, width) float32, the features at `positions`, all of them >= 0.

        Raises:
          LookupError: one is -1, as another program pruned what this one had written.
        """
        if len(positions) and positions.min() < 0:
            raise LookupError(
                f"features are gone from {self.folder}: another program pruned the "
                "cache meanwhile; run this one again"
            )
        features = np.empty((len(positions), self._width), np.float32)
        numbers, rows = positions >> _ROW_BITS, positions & (2**_ROW_BITS - 1)
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order])) + 1
        for which in np.split(order, bounds) if len(order) else ():
            kept = self._shards[numbers[which[0]]].mapped()
            if which[-1] - which[0] == len(which) - 1:  # side by side: copied once
                out = features[which[0] : which[-1] + 1]
                np.take(kept, rows[which], axis=0, out=out, mode="clip")
            else:
                features[which] = kept[rows[which]]
        return features

    def ordered(self, positions: np.ndarray) -> np.ndarray:
        """As `take`; many features as a read-only memory map.

        Its file is beside the shards, has no name and is gone with the array: for so
        long the features need their space on the disk twice.
        """
        row_bytes = 4 * self._width
        if len(positions) * row_bytes <= _IN_MEMORY:
            return self.take(positions)
        step = _SHARD_BYTES // row_bytes + 1
        with (
            files.say_which_folder(self.folder),
            tempfile.TemporaryFile(dir=self.folder) as file,
        ):
            for start in range(0, len(positions), step):
                file.write(self.take(positions[start : start + step]).data)
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(len(positions), self._width))

    def add(self, digests: np.ndarray, features: np.ndarray) -> None:
        """Keeps (n,) digests' (n, width) features; written now and then, by `flush`."""
        self._pending.append((digests, np.asarray(features, np.float32)))
        now = time.monotonic()
        patience = max(_SECONDS, _FRACTION * (now - self._started))
        pending_bytes = 4 * self._width * sum(len(one) for one, _ in self._pending)
        if pending_bytes >= _SHARD_BYTES or now - self._written >= patience:
            self.flush()

    def flush(self) -> None:
        """Writes what was added as one shard.

        Raises:
          OSError: the disk is full, or the folder can't be written.
        """
        pending, self._pending = self._pending, []
        self._written = time.monotonic()
        if not pending:
            return
        digests, features = (
            np.concatenate(part) for part in zip(*pending, strict=True)
        )
        path = self.folder / (secrets.token_hex(16) + files.SUFFIX)
        shards.write_shard(path, digests, features, self._about)
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            digests, features = shards.open_shard(path, self._width)
        except FileNotFoundError:  # pruned by another program since it was listed
            return
        except files.DamagedFile as error:
            _warn(error)
            return
        first = len(self._shards) << _ROW_BITS
        positions = np.arange(first, first + len(digests))
        self._unsorted.append((digests, positions))
        self._shards.append(features)

    def _sort(self) -> None:
        parts = [(self._known, self._where), *self._unsorted]
        known, where = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(known, kind="stable")
        self._known, self._where, self._unsorted = known[order], where[order], []

    def _search(self, digests: np.ndarray) -> np.ndarray:
        if self._unsorted:
            self._sort()
        positions = np.full(len(digests), -1, np.int64)
        if len(self._known):
            place = np.searchsorted(self._known, digests)
            place = np.minimum(place, len(self._known) - 1)
            same = self._known[place] == digests
            positions[same] = self._where[place[same]]
        return positions

    def _strike_off_damaged(self, positions: np.ndarray) -> bool:
        """Whether there was a damaged one among the shards of these positions."""
        needed = np.unique(positions[positions >= 0] >> _ROW_BITS).tolist()
        unseen = [number for number in needed if number not in self._verified]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looked_at = pool.map(shards.damage, [self._shards[one] for one in unseen])
            errors = dict(zip(unseen, looked_at, strict=True))
        self._verified.update(unseen)
        damaged = [number for number, error in errors.items() if error is not None]
        for number in damaged:
            _warn(errors[number])
        if damaged:
            left = ~np.isin(self._where >> _ROW_BITS, damaged)
            self._known, self._where = self._known[left], self._where[left]
        return bool(damaged)


def _warn(error: files.DamagedFile | None) -> None:
    warnings.warn(
        f"ignored, and computed again: {error} (prune removes it)", stacklevel=4
    )
