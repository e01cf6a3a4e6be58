"""When a run is saved, and how it goes on from what was saved."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import math
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from eagc_jax.gcd.methods.base import check
from eagc_jax.gcd.runs.locking import locked
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.checkpoints import arrays, facts, manifest, state, trees
from eagc_jax.gcd.training.checkpoints.arrays import Damaged
from eagc_jax.gcd.training.checkpoints.interrupts import Interrupts
from eagc_jax.gcd.training.checkpoints.manifest import Manifest, Place
from eagc_jax.gcd.training.checkpoints.shelf import Shelf
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.training.loop import TrainingRun

_ARRAYS = "arrays"
_ROOM = 2**20  # bytes that should be left on the disk
_SMALL = 2**14  # that a file takes besides its array, with its part of the lists


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved. It is saved when it ends, in any case.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    folder: str | os.PathLike[str]
    every: int = 1  # epochs from one checkpoint to the next
    seconds: float = 0.0  # and at least so many
    within: float = 300.0  # seconds after which one is written inside of an epoch
    keep: int = 3  # the newest ones

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("seconds", "within"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)


class Keeper:
    """Saves a run at the settings' times, and restores it.

    Args:
      settings: the times; or None, to do nothing.
      made_of: returns what the run is made of, see `facts`; a checkpoint of anything
        else is refused.
    """

    def __init__(
        self, settings: Checkpoints | None, made_of: Callable[[], Mapping[str, str]]
    ):
        self._settings = settings
        self.made_of: Callable[[], Mapping[str, str]] = functools.cache(made_of)
        self._interrupts = Interrupts()
        self._saved: Place | None = None  # the newest on the disk
        self._number: int | None = None  # of the newest folder
        self._failed = False
        self._last = -math.inf  # when something was saved
        if settings is not None:
            self._shelf = Shelf(pathlib.Path(settings.folder), settings.keep)

    # -----------------------------------------------------------------------
    # Restoring
    # -----------------------------------------------------------------------

    def restore(self, run: TrainingRun) -> None:
        """Puts the newest checkpoint into a run that has not begun, if there is one.

        Raises:
          ValueError: it is of another run or version, or all are damaged.
          OSError: another process uses the folder, or it can't be written.
        """
        if self._settings is None:
            return
        with self._locked():
            found = self._newest(run)
        parallel.check_same({"checkpoint": None if found is None else found[0]})
        if found is None:
            return
        kept, tree = found
        state.put(run, kept.place, tree)
        self._saved = kept.place

    def _newest(self, run: TrainingRun) -> tuple[Manifest, dict[str, PyTree]] | None:
        """The newest checkpoint that is whole; warns of those that are not."""
        damaged, numbers = [], self._shelf.numbers()
        self._number = next(iter(numbers), None)
        for number in numbers:
            path = self._shelf.path(number)
            try:
                kept = self._read_manifest(run, path)
                like = state.like(run, kept.place, kept.epochs)
                found = arrays.read(path / _ARRAYS, trees.shapes_of(like))
                tree = state.tree_of(run, like, found)
            except Damaged as error:
                damaged.append(f"{shown(path)} is damaged and left out: {error}")
                continue
            for one in damaged:
                warnings.warn(f"{one}; going on from {kept.place}", stacklevel=5)
            return kept, tree
        if damaged:
            raise ValueError(
                f"no checkpoint in {shown(self._shelf.folder)} can be read; remove the "
                f"folder to start anew. {damaged[0]}"
            )
        return None

    def _read_manifest(self, run: TrainingRun, path: pathlib.Path) -> Manifest:
        kept = manifest.read(path, state.most_bytes(run, _SMALL))
        differ = facts.differences(kept.facts, self.made_of())
        if differ:
            raise ValueError(
                f"{shown(path)} is a checkpoint of another run: {differ}. Go on with the "
                "settings and data that it was made with, or choose another folder"
            )
        state.check_place(run, kept.place, kept.epochs)
        others = facts.differences(kept.versions, facts.versions(run._mesh))
        if others:
            warnings.warn(
                f"{shown(path)} was written by other versions or on another device, so "
                f"that the run may round otherwise from here on: {others}",
                stacklevel=6,
            )
        elif kept.draws != state.draws(run, kept.place):
            raise ValueError(
                f"{shown(path)}: the rows of {kept.place} are drawn otherwise than when "
                "it was written; choose another folder to start anew"
            )
        return kept

    # -----------------------------------------------------------------------
    # While training
    # -----------------------------------------------------------------------

    @contextlib.contextmanager
    def at_work(self, run: TrainingRun) -> Iterator[None]:
        """Holds the folder; saves what is not yet saved when it ends, however it does."""
        if self._settings is None:
            yield
            return
        with self._locked(), self._interrupts.heard():
            newest = next(iter(self._shelf.numbers()), None)
            if newest != self._number and parallel.is_first():
                raise ValueError(
                    f"{shown(self._shelf.folder)} has changed since this run was made: "
                    "another process went on with it; make the run again"
                )
            self._failed, self._last = False, time.monotonic()
            try:
                yield
            finally:
                if not self._failed:
                    self._save(run)

    def over(self, run: TrainingRun) -> None:
        """An epoch, or the warm start, is over: saves the run if that is due.

        Raises:
          KeyboardInterrupt: it was asked for; the run is saved.
        """
        if self._settings is not None and self._is_due(len(run.history.epochs)):
            self._save(run)
        self._interrupts.obey()

    def inside(self, run: TrainingRun, inside: state.Inside) -> None:
        """A part of an epoch or of the warm start is over: saves it if that is due.

        Raises:
          KeyboardInterrupt: it was asked for; the run is saved.
        """
        if self._settings is not None and self._is_due(
            inside.place.epoch, inside.place.step
        ):
            self._save(run, inside)
        self._interrupts.obey()

    def _is_due(self, epochs: int, steps: int = 0) -> bool:
        assert self._settings is not None
        every, seconds = self._settings.every, self._settings.seconds
        if steps:
            every, seconds = 1, self._settings.within
        late = time.monotonic() - self._last >= seconds
        return (late and epochs % every == 0) or self._interrupts.pending

    def outside(self) -> contextlib.AbstractContextManager[None]:
        """While others' code runs, which a KeyboardInterrupt may end at once."""
        if self._settings is None:
            return contextlib.nullcontext()
        return self._interrupts.at_once()

    def _save(self, run: TrainingRun, inside: state.Inside | None = None) -> None:
        """Saves what is over, unless it is on the disk."""
        if not run._begun and inside is None:
            inside = run._inside  # of the warm start
        place = state.place_of(run, inside)
        if place is None or (self._saved is not None and place <= self._saved):
            return
        if parallel.is_first():
            self._write(run, place, inside)
        self._saved, self._last = place, time.monotonic()

    def _write(
        self, run: TrainingRun, place: Place, inside: state.Inside | None
    ) -> None:
        found = trees.to_arrays(state.tree_to_save(run, inside))
        kept = Manifest(
            place,
            len(run.history.epochs),
            dict(self.made_of()),
            facts.versions(run._mesh),
            state.draws(run, place),
        )

        def fill(folder: pathlib.Path) -> None:
            arrays.write(folder / _ARRAYS, found)
            kept.write(folder)

        try:
            self._check_room(sum(one.nbytes + _SMALL for one in found.values()))
            self._number = self._shelf.add(fill)
        except Exception as error:  # TensorStore raises a ValueError for a full disk
            self._failed = True
            raise self._in_words(error) from error

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._shelf.folder).free
        if free < needed + _ROOM:
            raise OSError(
                errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free"
            )

    def _in_words(self, error: Exception) -> Exception:
        number = getattr(error, "errno", None)
        if "No space left" in str(error):
            number = errno.ENOSPC
        if number is None and not isinstance(error, OSError):
            return error
        why = getattr(error, "strerror", None) or str(error)
        there = "none is there yet"
        if self._saved is not None:
            there = f"the last one, after {self._saved}, is kept"
        what = (
            "make room there" if number == errno.ENOSPC else "see to it that it can be"
        )
        return OSError(
            number or 0,
            f"no checkpoint could be written to {shown(self._shelf.folder)} ({why}); "
            f"{there}: {what}, and start the same run again",
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder is this process's; the first process does it for all."""
        if not parallel.is_first():
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._shelf.folder))
            except BlockingIOError:
                raise
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"checkpoints can't be written to {shown(self._shelf.folder)} "
                    f"({error.strerror}); choose another folder",
                ) from error
            self._shelf.clear_leftovers()
            yield


def of(
    checkpoints: Checkpoints | str | os.PathLike[str] | None,
    made_of: Callable[[], Mapping[str, str]],
) -> Keeper:
    """The keeper of a run; of a folder alone, with the usual times.

    Args:
      checkpoints: as `TrainingRun` takes them.
      made_of: what the run is made of; called where it matters.
    """
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        checkpoints = Checkpoints(checkpoints)
    return Keeper(checkpoints, made_of)
