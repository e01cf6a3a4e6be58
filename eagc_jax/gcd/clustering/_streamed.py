"""Semi-supervised k-means on rows that are read in chunks and never held a second time.

The rules are those of `_lloyd`, whose functions do the work on each chunk; the loop over
the chunks is Python's, and every chunk is read once for all restarts.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.clustering import _balanced, _lloyd
from eagc_jax.gcd.clustering._chunks import Chunk, Chunks, Rows, as_float, unit_rows
from eagc_jax.gcd.clustering._lloyd import Clustering

# Entries of the distances that are looked at in one go: 2 MiB, a core's own memory.
_BLOCK_ENTRIES = 2**20
_SEED_ROWS = 2**15  # of more rows a sample is drawn, from which centres are seeded
_SAMPLE = 2**32 - 1  # folded into the key for it; restarts fold in their numbers


def cluster(
    key: jax.Array,
    features: Rows,
    pinned: np.ndarray,
    max_iterations: int,
    tolerance: float,
    *,
    num_clusters: int,
    restarts: int,
    balanced: bool,
) -> Clustering:
    """As `_lloyd.cluster`, from rows outside the device; `balanced` or not."""
    chunks = Chunks(features, pinned)
    seen = _summed(chunks, num_clusters)
    known, centres = seen.counts > 0, _means(seen)
    if balanced:
        room = _balanced.room(len(features), np.asarray(seen.counts))
        visit = functools.partial(_visit_balanced, chunks, room)
    else:
        visit = functools.partial(_visit_nearest, chunks)
    centres = _starts_from_sample(key, chunks, known, centres, restarts)
    return _best(_iterated(visit, centres, max_iterations, tolerance))


class _Restarts(NamedTuple):
    """States of all restarts; assignments are apart, on the host."""

    states: _lloyd._Lloyd  # leaves (restarts, ...)
    assignments: np.ndarray  # (restarts, N) int32


_Visit = Callable[[jax.Array, np.ndarray, np.ndarray], tuple[_lloyd._Pass, np.ndarray]]


def _iterated(
    visit: _Visit, centres: jax.Array, max_iterations: int, tolerance: float
) -> _Restarts:
    restarts = len(centres)
    found, assignments = visit(centres, np.zeros(restarts, bool), np.empty(0))
    begun = jax.device_put((np.zeros(restarts, np.int32), np.zeros(restarts, bool)))
    states = _lloyd._Lloyd(centres, found, *begun)
    while True:
        done, iterations = np.asarray(states.done), np.asarray(states.iterations)
        done = done | (iterations >= max_iterations)
        if done.all():
            return _Restarts(states, assignments)
        centres = _all_moved(states)
        found, proposed = visit(centres, done, assignments)
        states, taken = _all_settled(states, done, centres, found, tolerance)
        taken = np.asarray(taken)
        assignments[taken] = proposed[taken]


@jax.jit
def _all_moved(states: _lloyd._Lloyd) -> jax.Array:
    return jax.vmap(_lloyd._moved)(states.centres, states.found)


@jax.jit
def _all_settled(
    states: _lloyd._Lloyd,
    done: jax.Array,
    centres: jax.Array,
    found: _lloyd._Pass,
    tolerance: jax.Array,
) -> tuple[_lloyd._Lloyd, jax.Array]:
    """The next states, and which restarts took the step."""
    settled = jax.vmap(_lloyd._settled, in_axes=(0, 0, 0, None))(
        states, centres, found, tolerance
    )
    taken = ~done & (found.inertia <= states.found.inertia)

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return jax.tree.map(keep, states, settled), taken


def _best(restarts: _Restarts) -> Clustering:
    number, best = _best_state(restarts.states)
    return Clustering(
        jax.device_put(restarts.assignments[int(number)]),
        best.centres,
        best.found.inertia,
        best.iterations,
        best.done,
    )


@jax.jit
def _best_state(states: _lloyd._Lloyd) -> tuple[jax.Array, _lloyd._Lloyd]:
    number = jnp.argmin(states.found.inertia)
    return number, jax.tree.map(lambda x: x[number], states)


def _visit_nearest(
    chunks: Chunks, centres: jax.Array, done: np.ndarray, _: np.ndarray
) -> tuple[_lloyd._Pass, np.ndarray]:
    """One pass over all rows; restarts that are done are passed over."""
    assignments = np.zeros((len(centres), len(chunks.features)), np.int32)
    so_far = _nothing_yet(centres)
    waiting = []  # read back while the device is at the next chunk
    for chunk in chunks:
        real = chunk.stop - chunk.start
        so_far, assigned = _assigned(
            so_far, done, chunk.rows, chunk.scales, chunk.pinned, real, centres
        )
        waiting.append((chunk, assigned))
        if len(waiting) > 1:
            _write(assignments, *waiting.pop(0))
    _write(assignments, *waiting.pop())
    return so_far, assignments


@jax.jit
def _nothing_yet(centres: jax.Array) -> _lloyd._Pass:
    """Of each restart."""
    return jax.vmap(_lloyd._nothing_yet)(centres)


def _write(assignments: np.ndarray, chunk: Chunk, assigned: jax.Array) -> None:
    number = chunk.stop - chunk.start
    assignments[:, chunk.start : chunk.stop] = np.asarray(assigned)[:, :number]


@jax.jit
def _assigned(
    so_far: _lloyd._Pass,
    done: jax.Array,
    rows: jax.Array,
    scales: jax.Array,
    pinned: jax.Array,
    real: jax.Array,
    centres: jax.Array,
) -> tuple[_lloyd._Pass, jax.Array]:
    """One chunk: `so_far` with it, and (restarts, c) the cluster of each row."""
    rows = as_float(rows)
    is_real = jnp.arange(len(rows)) < real
    blocks = _lloyd._in_blocks(
        rows, pinned, centres.shape[1], is_real, _BLOCK_ENTRIES, scales
    )

    def one(
        restart: tuple[_lloyd._Pass, jax.Array, jax.Array],
    ) -> tuple[_lloyd._Pass, jax.Array]:
        so_far, done, centres = restart

        def go() -> tuple[_lloyd._Pass, jax.Array]:
            found = _lloyd._visit(blocks, centres, so_far)
            flat = found.assignments.reshape(-1)[: len(rows)]
            return found._replace(assignments=so_far.assignments), flat

        if single:  # when it is done, nobody asks; a condition copies its rows
            return go()
        return jax.lax.cond(done, lambda: (so_far, jnp.zeros(len(rows), jnp.int32)), go)

    single = len(centres) == 1
    return jax.lax.map(one, (so_far, done, centres))


def _visit_balanced(
    chunks: Chunks,
    room: np.ndarray,
    centres: jax.Array,
    done: np.ndarray,
    assignments: np.ndarray,
) -> tuple[_lloyd._Pass, np.ndarray]:
    """Two passes over all rows for each restart: where they go, then what that gives."""
    proposed = np.zeros((len(centres), len(chunks.features)), np.int32)
    found = []
    for number, one in enumerate(centres):
        if not done[number]:
            proposed[number] = _balanced.assigned(chunks, one, room)
        found.append(_summed(chunks, len(one), one, proposed[number]))
    return _stacked(found), proposed


@jax.jit
def _stacked(found: list[_lloyd._Pass]) -> _lloyd._Pass:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _summed(
    chunks: Chunks,
    num_clusters: int,
    centres: jax.Array | None = None,
    assigned: np.ndarray | None = None,
) -> _lloyd._Pass:
    """`_Pass` for given clusters; without them, of the labeled rows by their class."""
    assigned = chunks.pinned if assigned is None else assigned
    if centres is None:
        width = chunks.features.shape[1]
        dtype = jnp.promote_types(chunks.features.dtype, jnp.float32)
        centres = jnp.zeros((num_clusters, width), jax.dtypes.canonicalize_dtype(dtype))
    so_far = _lloyd._nothing_yet(centres)
    for chunk in chunks:
        which = np.full(chunks.length, -1, np.int32)
        which[: chunk.stop - chunk.start] = assigned[chunk.start : chunk.stop]
        so_far = _tallied(
            so_far, chunk.rows, chunk.scales, chunk.pinned, which, centres
        )
    return so_far


@jax.jit
def _tallied(
    so_far: _lloyd._Pass,
    rows: jax.Array,
    scales: jax.Array,
    pinned: jax.Array,
    assigned: jax.Array,
    centres: jax.Array,
) -> _lloyd._Pass:
    """One chunk with its clusters given; -1 for rows that count nowhere."""
    unit = unit_rows(rows, scales)
    blocks = _lloyd._in_blocks(unit, pinned, len(centres), assigned >= 0)
    split = jnp.pad(assigned, (0, blocks.pinned.size - len(unit)), constant_values=-1)

    def block(
        so_far: _lloyd._Pass, part: tuple[_lloyd._Rows, jax.Array]
    ) -> tuple[_lloyd._Pass, None]:
        rows, assigned = part
        return _lloyd._tallied(so_far, rows, assigned, centres), None

    return jax.lax.scan(block, so_far, (blocks, split.reshape(blocks.pinned.shape)))[0]


@jax.jit
def _means(found: _lloyd._Pass) -> jax.Array:
    return found.sums / jnp.maximum(found.counts, 1)[:, None]


def _starts_from_sample(
    key: jax.Array,
    chunks: Chunks,
    known: jax.Array,
    centres: jax.Array,
    restarts: int,
) -> jax.Array:
    """(restarts, K, D): all rows are the sample where there are few."""
    number = max(_SEED_ROWS, 16 * len(centres))
    if len(chunks.features) <= number:
        which, pinned = slice(None), chunks.pinned
    else:
        which = _sampled(key, chunks.pinned, number)
        pinned = np.full(len(which), -1, np.int32)
    unit = _unit(chunks.features[which], chunks.scales[:, which])
    if len(unit) == len(chunks.features):
        # The known centres to the bit, too, so that the draws are the same.
        known, centres = _known_centres(unit, pinned, len(centres))
    return _seeded(key, unit, pinned, known, centres, restarts)


_unit = jax.jit(unit_rows)


def _sampled(key: jax.Array, pinned: np.ndarray, number: int) -> np.ndarray:
    """Numbers of unlabeled rows in their order, each as likely as another."""
    (unlabeled,) = np.nonzero(pinned < 0)
    if len(unlabeled) <= number:
        return unlabeled
    seed = np.asarray(jax.random.bits(jax.random.fold_in(key, _SAMPLE), (4,)))
    draw = np.random.default_rng(seed)
    return np.sort(draw.choice(unlabeled, number, replace=False, shuffle=False))


@functools.partial(jax.jit, static_argnames="num_clusters")
def _known_centres(
    unit: jax.Array, pinned: jax.Array, num_clusters: int
) -> tuple[jax.Array, jax.Array]:
    return _lloyd._known_centres(
        _lloyd._in_blocks(unit, pinned, num_clusters), num_clusters
    )


@functools.partial(jax.jit, static_argnames="restarts")
def _seeded(
    key: jax.Array,
    unit: jax.Array,
    pinned: jax.Array,
    known: jax.Array,
    centres: jax.Array,
    restarts: int,
) -> jax.Array:
    blocks = _lloyd._in_blocks(unit, pinned, len(centres))
    closest = _lloyd._distance_to_known(blocks, known, centres)
    return _lloyd._starts(key, unit, pinned, closest, known, centres, restarts)
