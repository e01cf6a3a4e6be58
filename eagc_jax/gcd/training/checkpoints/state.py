"""All that a run needs to go on, as a tree of arrays: out of a run, and into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from eagc_jax.gcd.training import chunks, parallel
from eagc_jax.gcd.training.checkpoints import histories, trees
from eagc_jax.gcd.training.checkpoints.arrays import Damaged
from eagc_jax.gcd.training.checkpoints.manifest import Place
from eagc_jax.gcd.training.epoch import Carry
from eagc_jax.gcd.training.measures import Trace
from eagc_jax.typing import Params, PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.training.loop import TrainingRun


class Inside(NamedTuple):
    """An epoch that is not over, or the warm start that is not."""

    place: Place
    carry: Carry
    traces: Sequence[Trace] | None = None  # of training, in one or more parts


def place_of(run: TrainingRun, inside: Inside | None) -> Place | None:
    """Where the run is; None where nothing is over yet."""
    if inside is not None:
        return inside.place
    if not run._begun:
        return None
    return Place(True, len(run.history.epochs))


def tree_to_save(run: TrainingRun, inside: Inside | None) -> dict[str, PyTree]:
    """Arrays of one device each, or of the host."""
    tree = {
        "key": run._key,
        "carry": run._own(run._carry),
        "history": histories.to_tree(run.history),
    }
    if inside is None or inside.place.training:
        tree |= _reference(run, run._own(run._constants.reference))
    if inside is not None:
        tree["inside"] = {"carry": run._own(inside.carry)}
        if inside.place.training:
            assert inside.traces is not None  # of the steps that are over
            tree["inside"]["traces"] = chunks.joined(
                [run._own(part) for part in inside.traces]
            )
    return tree


def like(run: TrainingRun, place: Place, epochs: int) -> dict[str, PyTree]:
    """The shapes of `tree_to_save` at that place, in a tree of the same form."""
    carry, measured = run._carry, bool(run.config.log_every)
    steps = run._recipe.steps
    tree = {
        "key": run._key,
        "carry": carry,
        "history": histories.shapes(
            run.history, run._own(carry.opt_state), epochs, steps, measured=measured
        ),
    }
    if place.training:
        below = {k: v for k, v in carry.params.items() if k != "head"}
        tree |= _reference(run, below)
    if not place.training:
        tree["inside"] = {"carry": run._first_warm_carry()}
    elif place.step:
        traces = histories.trace_shapes(
            run.history, run._own(carry.opt_state), place.step, measured=measured
        )
        tree["inside"] = {"carry": carry, "traces": traces}
    return tree


def tree_of(
    run: TrainingRun, form: dict[str, PyTree], found: Mapping[str, np.ndarray]
) -> dict[str, PyTree]:
    """The arrays read, in the form of `like`; the history's stay on the host."""
    on_device = trees.from_arrays({**form, "history": ()}, found, host=False)
    only = trees.from_arrays({"history": form["history"]}, found, host=True)
    tree = {**on_device, **only}
    own, theirs = (np.asarray(jax.random.key_data(x)) for x in (run._key, tree["key"]))
    if not np.array_equal(own, theirs):
        raise Damaged("its key is not that of the seed")
    return tree


def put(run: TrainingRun, place: Place, tree: dict[str, PyTree]) -> None:
    """Makes the run go on from there."""
    histories.fill(run.history, tree["history"], tree["carry"].opt_state)
    mesh = run._mesh
    run._carry = parallel.replicate(tree["carry"], mesh)
    if "reference" in tree:
        below = parallel.replicate(tree["reference"], mesh)
        run._constants = run._constants._replace(reference=below)
    run._begun = place.training
    inside = tree.get("inside")
    if inside is not None:
        carry = parallel.replicate(inside["carry"], mesh)
        traces = inside.get("traces")
        run._inside = Inside(place, carry, None if traces is None else [traces])


def check_place(run: TrainingRun, place: Place, epochs: int) -> None:
    """Raises Damaged where the run never is at such a place."""
    warm = run.config.warm_start
    most = run.config.epochs if place.training else getattr(warm, "epochs", 0)
    size = chunks.chunk_size(run._recipe, run._inputs)
    fits = epochs == (place.epoch if place.training else 0) and place.epoch <= most
    if place.step:
        fits = fits and place.epoch < most and place.step < run._recipe.steps
        fits = fits and place.step % size == 0
    if not fits:
        raise Damaged(
            f"a run of these settings is never at {place} with {epochs} epochs"
        )


def draws(run: TrainingRun, place: Place) -> str:
    """A digest of the rows that the place's epoch draws."""
    key = run._key_of(place.epoch, warm=not place.training)
    rows, keys = chunks.rows_of_epoch(run._recipe, run.records.labels, key)
    return parallel.digest((rows, jax.random.key_data(keys)))


def most_bytes(run: TrainingRun, small: int) -> int:
    """That a checkpoint of this run may take at any place, with so many for a file."""
    last = run.config.epochs
    form = [like(run, Place(True, last, run._recipe.steps), last)]
    if run.config.warm_start is not None and run.config.warm_start.epochs:
        form.append({"warm": like(run, Place(False, 0), 0)})
    shapes = trees.shapes_of(form)
    return 2**24 + sum(
        small + int(np.prod(x.shape, dtype=np.int64)) * np.dtype(x.dtype).itemsize
        for x in shapes.values()
    )


def _reference(run: TrainingRun, below: dict[str, Params]) -> dict[str, PyTree]:
    """The reference part, where a warm start has made another of it."""
    if run._recipe.coordination is None or run.config.warm_start is None:
        return {}
    return {"reference": below}
