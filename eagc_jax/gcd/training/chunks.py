"""An epoch: rows are drawn, read a few steps at a time, and trained on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.epoch import Carry, Chunk, Constants, Recipe, run_steps
from eagc_jax.gcd.training.inputs import Inputs
from eagc_jax.gcd.training.sampling import sample_indices

CHUNK_BYTES = (
    2**27
)  # that some steps' arrays may need; the next ones are read meanwhile


def train_epoch(
    recipe: Recipe,
    graphdef: Any,
    carry: Carry,
    constants: Constants,
    inputs: Inputs,
    labels: np.ndarray,
    key: jax.Array,
    epoch: int,
) -> tuple[Carry, Any]:
    """All steps of one epoch.

    Args:
      recipe: what is compiled.
      graphdef: of the model.
      carry: what the epoch starts from; it stays as it is.
      constants: the same in every step.
      inputs: of the items.
      labels: (N,) int32, -1 on unlabeled items.
      key: of the draws and views.
      epoch: from 0.

    Returns:
      The carry after the last step, and the traces of all steps.
    """
    traces = []
    for chunk in _chunks(recipe, inputs, labels, key):
        # Returns before the steps are done: the next chunk is read in the meantime.
        carry, seen = run_steps(
            recipe, graphdef, carry, chunk, jnp.float32(epoch), constants
        )
        traces.append(seen)
    whole = traces[0] if len(traces) == 1 else _joined(traces)
    return jax.block_until_ready((carry, whole))


def _chunks(
    recipe: Recipe, inputs: Inputs, labels: np.ndarray, key: jax.Array
) -> Iterator[Chunk]:
    batch, steps = recipe.config.batch_size, recipe.steps
    # Every process draws the same rows.
    rows, keys = _drawn(key, jnp.asarray(labels >= 0), steps, batch)
    rows = np.asarray(rows)
    columns = parallel.own_rows(batch, recipe.mesh)
    size = steps_at_once(inputs.bytes_of_rows(len(columns)), steps)
    for start in range(0, steps, size):
        some = slice(start, start + size)
        arrays = inputs.read(rows[some], keys[some], columns)
        yield Chunk(
            jnp.arange(start, start + len(rows[some]), dtype=jnp.int32),
            parallel.divide(arrays, batch, recipe.mesh, axis=1 + inputs.rows_axis),
            parallel.divide(rows[some][:, columns], batch, recipe.mesh, axis=1),
            parallel.divide(labels[rows[some][:, columns]], batch, recipe.mesh, axis=1),
            keys[some],
        )


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


def _joined(traces: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)
