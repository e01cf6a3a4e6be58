"""An epoch: rows are drawn, read a few steps at a time, and trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.epoch import Carry, Chunk, Constants, Recipe, run_steps
from eagc_jax.gcd.training.inputs import Inputs
from eagc_jax.gcd.training.measures import Trace
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.sampling import sample_indices

CHUNK_BYTES = (
    2**27
)  # that some steps' arrays may need; the next ones are read meanwhile


class Begun(NamedTuple):
    """An epoch of which some steps are over."""

    step: int  # how many
    carry: Carry
    traces: Sequence[Trace]  # of these steps, in parts


def train_epoch(
    recipe: Recipe,
    graphdef: nnx.GraphDef[DiscoveryModel],
    carry: Carry,
    constants: Constants,
    inputs: Inputs,
    labels: np.ndarray,
    key: jax.Array,
    epoch: int,
    begun: Begun | None = None,
    on_chunk: Callable[[int, Carry, list[Trace]], None] | None = None,
) -> tuple[Carry, Trace]:
    """All steps of one epoch, or those that are left.

    Args:
      recipe: what is compiled.
      graphdef: of the model.
      carry: what the epoch starts from; it stays as it is.
      constants: the same in every step.
      inputs: of the items.
      labels: (N,) int32, -1 on unlabeled items.
      key: of the draws and views.
      epoch: from 0.
      begun: the steps that are over; the epoch then goes on from its carry.
      on_chunk: called between chunks with the number of steps that are over or under
        way, their carry, and traces of all of them in parts.

    Returns:
      The carry after the last step, and the traces of all steps.
    """
    step, traces = 0, []
    if begun is not None:
        step, carry, traces = begun.step, begun.carry, list(begun.traces)
    for chunk in _chunks(recipe, inputs, labels, key, step):
        # Returns before the steps are done: the next chunk is read in the meantime.
        carry, seen = run_steps(
            recipe, graphdef, carry, chunk, jnp.float32(epoch), constants
        )
        traces.append(seen)
        step += len(chunk.number)
        if on_chunk is not None and step < recipe.steps:
            jax.block_until_ready(traces[:-1])  # else this loop would be far ahead
            on_chunk(step, carry, traces)
    return jax.block_until_ready((carry, joined(traces)))


def _chunks(
    recipe: Recipe, inputs: Inputs, labels: np.ndarray, key: jax.Array, first: int = 0
) -> Iterator[Chunk]:
    batch, steps = recipe.config.batch_size, recipe.steps
    rows, keys = rows_of_epoch(recipe, labels, key)
    columns = parallel.own_rows(batch, recipe.mesh)
    size = chunk_size(recipe, inputs)
    for start in range(first, steps, size):
        some = slice(start, start + size)
        arrays = inputs.read(rows[some], keys[some], columns)
        yield Chunk(
            jnp.arange(start, start + len(rows[some]), dtype=jnp.int32),
            parallel.divide(arrays, batch, recipe.mesh, axis=1 + inputs.rows_axis),
            parallel.divide(rows[some][:, columns], batch, recipe.mesh, axis=1),
            parallel.divide(labels[rows[some][:, columns]], batch, recipe.mesh, axis=1),
            keys[some],
        )


def rows_of_epoch(
    recipe: Recipe, labels: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, jax.Array]:
    """The rows (S, B) that an epoch draws, the same in every process, and keys (S,)."""
    rows, keys = _drawn(key, labels >= 0, recipe.steps, recipe.config.batch_size)
    return np.asarray(rows), keys


def chunk_size(recipe: Recipe, inputs: Inputs) -> int:
    """Steps of a chunk; of the last one maybe fewer."""
    columns = parallel.own_rows(recipe.config.batch_size, recipe.mesh)
    return steps_at_once(inputs.bytes_of_rows(len(columns)), recipe.steps)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _drawn(key, labeled_mask, steps, batch):
    draw_key, view_key = jax.random.split(key)
    rows = sample_indices(draw_key, labeled_mask, (steps, batch))
    return rows, jax.random.split(view_key, steps)


def steps_at_once(bytes_of_a_step: int, steps: int) -> int:
    """As many as memory allows, in parts of about equal size: few are compiled."""
    most = max(CHUNK_BYTES // max(bytes_of_a_step, 1), 1)
    parts = -(-steps // most)
    return -(-steps // parts)


def joined(traces: Sequence[Trace]) -> Trace:
    """Traces of parts of an epoch as those of all their steps."""
    if len(traces) == 1:
        return traces[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)
