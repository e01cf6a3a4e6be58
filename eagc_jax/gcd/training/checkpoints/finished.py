"""A run that has ended, as one array of bytes: to be kept where arrays are kept."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from eagc_jax.gcd.training.checkpoints import facts, state, trees
from eagc_jax.gcd.training.checkpoints.arrays import Damaged
from eagc_jax.gcd.training.checkpoints.manifest import Place

if TYPE_CHECKING:
    from eagc_jax.gcd.training.loop import TrainingRun

_VERSION = 1  # goes up when training gives other numbers


def key_of(run: TrainingRun, content: str) -> str:
    """All that the end of a run depends on; of the items' content what is said here."""
    known = {"content": content, **run._keeper.made_of(), **facts.versions(run._mesh)}
    known["version"] = facts.package_version()
    return f"training {_VERSION} of {json.dumps(known, sort_keys=True)}"


def to_bytes(run: TrainingRun) -> np.ndarray:
    """(n,) uint8: parameters, states and history of a run after its last epoch."""
    found = trees.to_arrays(state.tree_to_save(run, None))
    parts = [np.ascontiguousarray(found[name]).reshape(-1) for name in sorted(found)]
    return np.concatenate([part.view(np.uint8) for part in parts])


def put_bytes(run: TrainingRun, content: np.ndarray) -> None:
    """Makes a run that has not begun the one that `to_bytes` was given.

    Args:
      run: that depends on the same, see `key_of`.
      content: as `to_bytes` returned it.

    Raises:
      Damaged: there are too many bytes or too few, or they are of another seed.
    """
    epochs = run.config.epochs
    place = Place(True, epochs)
    form = state.like(run, place, epochs)
    shapes = trees.shapes_of(form)
    sizes = [
        math.prod(shapes[name].shape) * shapes[name].dtype.itemsize
        for name in sorted(shapes)
    ]
    if content.dtype != np.uint8 or content.shape != (sum(sizes),):
        raise Damaged(f"should be {sum(sizes)} bytes, found {content.size}")
    parts = np.split(np.array(content), np.cumsum(sizes)[:-1])
    found = {
        name: part.view(shapes[name].dtype).reshape(shapes[name].shape)
        for name, part in zip(sorted(shapes), parts, strict=True)
    }
    state.put(run, place, state.tree_of(run, form, found))
