"""Seeding and iterations of semi-supervised k-means, compiled once per shape."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Entries of the largest array of one block of rows; 8 MiB in float32.
_BLOCK_ENTRIES = 2**21
_SEED_ENTRIES = 2**24  # of the distances that all restarts seeded at once need
_MIN_SQUARED_NORM = 1e-24  # a row below it has no direction: it stays at the origin


class Clustering(NamedTuple):
    """The best restart; its centres are of unit rows, but not of unit length."""

    assignments: jax.Array  # (N,) int32 in [0, K): labeled rows' class, else nearest
    centres: jax.Array  # (K, D) floats, known classes first
    inertia: jax.Array  # scalar, sum of squared distances of rows to their centres
    iterations: jax.Array  # scalar int32, times that the centres were moved
    converged: jax.Array  # scalar bool: the end came before max_iterations


class _Rows(NamedTuple):
    """Rows in blocks of equal size; what fills up the last block is not real."""

    unit: jax.Array  # (blocks, b, D) l2-normalised
    pinned: jax.Array  # (blocks, b) int32, the class of labeled rows, else -1
    real: jax.Array  # (blocks, b) bool, False where it is filling
    # (blocks, 2, b) what normalises `unit`, where that isn't done yet: block by block it
    # costs no pass over the memory.
    scales: jax.Array | None = None


class _Pass(NamedTuple):
    """What one pass over all rows finds, given centres."""

    assignments: jax.Array  # (blocks, b) int32
    inertia: jax.Array  # scalar
    sums: jax.Array  # (K, D), of the rows of each cluster
    counts: jax.Array  # (K,) int32
    far_distance: jax.Array  # scalar, of the unlabeled row farthest from its centre
    far_row: jax.Array  # (D,), that row


class _Lloyd(NamedTuple):
    """State of one restart."""

    centres: jax.Array  # (K, D)
    found: _Pass  # with these centres
    iterations: jax.Array  # scalar int32
    done: jax.Array  # scalar bool


@functools.partial(jax.jit, static_argnames=("num_clusters", "restarts"))
def cluster(
    key: jax.Array,
    features: jax.Array,
    pinned: jax.Array,
    max_iterations: jax.Array,
    tolerance: jax.Array,
    *,
    num_clusters: int,
    restarts: int,
) -> Clustering:
    """The best of the restarts; `pinned` is the class of labeled rows, -1 elsewhere."""
    unit = _normalized(features)
    rows = _in_blocks(unit, pinned, num_clusters)
    known, centres = _known_centres(rows, num_clusters)
    closest = _distance_to_known(rows, known, centres)
    starts = _starts(key, unit, pinned, closest, known, centres, restarts)
    # One after another: each stops when it is done.
    results = jax.lax.map(
        lambda start: _lloyd(rows, start, max_iterations, tolerance), starts
    )
    best = jax.tree.map(lambda x: x[jnp.argmin(results.found.inertia)], results)
    return Clustering(
        best.found.assignments.reshape(-1)[: len(features)],
        best.centres,
        best.found.inertia,
        best.iterations,
        best.done,
    )


def _normalized(features: jax.Array) -> jax.Array:
    return _rescaled(features, *_scales(features))


def _scales(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(N,) each: the largest entry of each row, and what makes the quotient unit."""
    # Divided by the largest entry first: squares of any finite row are then in range.
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    scaled = features / jnp.where(largest > 0, largest, 1)
    squared = jnp.sum(scaled**2, axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(squared, _MIN_SQUARED_NORM))
    return largest[:, 0], inverse[:, 0]


def _rescaled(features: jax.Array, largest: jax.Array, inverse: jax.Array) -> jax.Array:
    largest = jnp.where(largest > 0, largest, 1)
    return features / largest[:, None] * inverse[:, None]


def _in_blocks(
    unit: jax.Array,
    pinned: jax.Array,
    num_clusters: int,
    real: jax.Array | bool = True,
    entries: int | None = None,
    scales: jax.Array | None = None,
) -> _Rows:
    """`real` is for rows some of which are filling already; `scales` are (2, N)."""
    size, width = unit.shape
    blocks = math.ceil(size * max(num_clusters, width) / (entries or _BLOCK_ENTRIES))
    if scales is not None:  # no filling, which copies the rows, where that can be
        even = (n for n in range(blocks, 2 * blocks + 1) if size % n == 0)
        blocks = next(even, blocks)
    block = math.ceil(size / blocks)
    fill = blocks * block - size

    def split(array: jax.Array, value: int | bool) -> jax.Array:
        widths = ((0, fill),) + ((0, 0),) * (array.ndim - 1)
        padded = jnp.pad(array, widths, constant_values=value)
        return padded.reshape(blocks, block, *array.shape[1:])

    real = jnp.broadcast_to(real, size)
    if scales is not None:
        scales = split(scales.T, 1).swapaxes(1, 2)
    return _Rows(split(unit, 0), split(pinned, -1), split(real, False), scales)


def _known_centres(rows: _Rows, num_clusters: int) -> tuple[jax.Array, jax.Array]:
    """(K,) which slots have labeled rows, and (K, D) their means, zero elsewhere."""

    def add(
        so_far: tuple[jax.Array, jax.Array], rows: _Rows
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        unit, pinned = rows[:2]  # filling is pinned nowhere
        sums, counts = _sums_and_counts(unit, pinned, num_clusters)
        return (so_far[0] + sums, so_far[1] + counts), None

    start = (
        jnp.zeros((num_clusters, rows.unit.shape[-1]), rows.unit.dtype),
        jnp.zeros(num_clusters, jnp.int32),
    )
    (sums, counts), _ = jax.lax.scan(add, start, rows)
    return counts > 0, sums / jnp.maximum(counts, 1)[:, None]


def _sums_and_counts(
    unit: jax.Array, assigned: jax.Array, num_clusters: int
) -> tuple[jax.Array, jax.Array]:
    """(K, D) and (K,); a product, as a scatter would add in any order on a GPU."""
    members = assigned == jnp.arange(num_clusters, dtype=jnp.int32)[:, None]
    sums = _matmul(members.astype(unit.dtype), unit)
    return sums, members.sum(axis=1, dtype=jnp.int32)


def _quick_sums_and_counts(
    unit: jax.Array, assigned: jax.Array, num_clusters: int
) -> tuple[jax.Array, jax.Array]:
    """The same; on a CPU added up in the rows' order, which reads them once."""

    def added(unit: jax.Array, assigned: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = jnp.where(assigned < 0, num_clusters, assigned)
        sums = jnp.zeros((num_clusters, unit.shape[1]), unit.dtype)
        counts = jnp.zeros(num_clusters, jnp.int32)
        return (
            sums.at[target].add(unit, mode="drop"),
            counts.at[target].add(1, mode="drop"),
        )

    def multiplied(unit: jax.Array, assigned: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _sums_and_counts(unit, assigned, num_clusters)

    return jax.lax.platform_dependent(unit, assigned, cpu=added, default=multiplied)


def _distance_to_known(rows: _Rows, known: jax.Array, centres: jax.Array) -> jax.Array:
    """(rows incl. filling,) squared distance to the nearest known centre, else inf."""

    def block(unit: jax.Array) -> jax.Array:
        return jnp.where(known[:, None], _squared_distances(unit, centres), jnp.inf)

    return jax.lax.map(lambda unit: block(unit).min(axis=0), rows.unit).reshape(-1)


def _starts(
    key: jax.Array,
    unit: jax.Array,
    pinned: jax.Array,
    closest: jax.Array,
    known: jax.Array,
    centres: jax.Array,
    restarts: int,
) -> jax.Array:
    """(restarts, K, D) starting centres."""

    def seed(number: jax.Array) -> jax.Array:
        return _seed(
            jax.random.fold_in(key, number), unit, pinned < 0, closest, known, centres
        )

    # Several at a time, as far as memory allows: placing a centre is bound by reading
    # the rows, and they are read once for all of these restarts.
    at_once = _SEED_ENTRIES // (len(unit) * _draws(len(centres)))
    numbers = jnp.arange(restarts)
    return jax.lax.map(seed, numbers, batch_size=min(max(at_once, 1), restarts))


def _seed(
    key: jax.Array,
    unit: jax.Array,
    unlabeled: jax.Array,
    closest: jax.Array,
    known: jax.Array,
    centres: jax.Array,
) -> jax.Array:
    """(K, D) starting centres: the known ones, the others by greedy k-means++."""
    closest = closest[: len(unit)]

    def place(
        slot: jax.Array, carry: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        centres, closest = carry
        # Before any centre is placed every row is as good as another; likewise where
        # all unlabeled rows coincide with centres.
        weights = jnp.where(unlabeled & jnp.isfinite(closest), closest, 0)
        weights = jnp.where(weights.sum() > 0, weights, unlabeled)
        candidates = unit[
            _draw(jax.random.fold_in(key, slot), weights, _draws(len(centres)))
        ]
        nearest = jnp.minimum(closest, _squared_distances(unit, candidates))
        best = jnp.argmin(jnp.sum(jnp.where(unlabeled, nearest, 0), axis=1))
        return (
            jnp.where(known[slot], centres, centres.at[slot].set(candidates[best])),
            jnp.where(known[slot], closest, nearest[best]),
        )

    # Known classes come first, so their slots need no turn; under jit without checked
    # labels there may be a gap, hence the `where`s above.
    first = jnp.argmin(known)
    first = jnp.where(known.all(), len(centres), first)
    return jax.lax.fori_loop(first, len(centres), place, (centres, closest))[0]


def _draws(num_clusters: int) -> int:
    return 2 + int(math.log(num_clusters))


def _draw(key: jax.Array, weights: jax.Array, number: int) -> jax.Array:
    """(number,) indices, with probability proportional to the weights."""
    cumulative = jnp.cumsum(weights)
    points = jax.random.uniform(key, (number,), weights.dtype) * cumulative[-1]
    drawn = jnp.searchsorted(cumulative, points, side="right")
    drawn = jnp.minimum(drawn, len(weights) - 1)
    # A sum that was rounded may point at a row of no weight.
    return jnp.where(weights[drawn] > 0, drawn, jnp.argmax(weights))


def _lloyd(
    rows: _Rows, centres: jax.Array, max_iterations: jax.Array, tolerance: jax.Array
) -> _Lloyd:
    def go_on(state: _Lloyd) -> jax.Array:
        return ~state.done & (state.iterations < max_iterations)

    def iterate(state: _Lloyd) -> _Lloyd:
        centres = _moved(state.centres, state.found)
        return _settled(state, centres, _visit(rows, centres), tolerance)

    start = _Lloyd(centres, _visit(rows, centres), jnp.int32(0), jnp.array(False))
    return jax.lax.while_loop(go_on, iterate, start)


def _settled(
    state: _Lloyd, centres: jax.Array, found: _Pass, tolerance: jax.Array
) -> _Lloyd:
    """The state after a step that proposes `centres`, with which it `found` this."""
    shift = jnp.sum(jnp.linalg.norm(centres - state.centres, axis=1))
    falls = found.inertia < state.found.inertia
    # An equal inertia is taken too: the centres are then the means of their rows.
    take = found.inertia <= state.found.inertia
    centres, found = jax.tree.map(
        lambda new, old: jnp.where(take, new, old),
        (centres, found),
        (state.centres, state.found),
    )
    rests = (shift**2 < tolerance) & ~_can_reseed(found)
    done = ~falls | rests
    return _Lloyd(centres, found, state.iterations + 1, done)


def _moved(centres: jax.Array, found: _Pass) -> jax.Array:
    """The means of the clusters; the first empty one goes to the farthest row."""
    empty = found.counts == 0
    means = found.sums / jnp.maximum(found.counts, 1)[:, None]
    means = jnp.where(empty[:, None], centres, means)
    reseeded = (jnp.arange(len(empty)) == jnp.argmax(empty)) & _can_reseed(found)
    return jnp.where(reseeded[:, None], found.far_row, means)


def _can_reseed(found: _Pass) -> jax.Array:
    # With fewer distinct rows than clusters every row lies on a centre in the end.
    return (found.counts == 0).any() & (found.far_distance > 0)


def _visit(rows: _Rows, centres: jax.Array, so_far: _Pass | None = None) -> _Pass:
    """Assigns all rows, and sums up what the next centres need, onto `so_far`."""

    def block(so_far: _Pass, rows: _Rows) -> tuple[_Pass, jax.Array]:
        if rows.scales is not None:
            rows = rows._replace(unit=_rescaled(rows.unit, *rows.scales), scales=None)
        nearest = _nearest(_scores(rows.unit, centres))
        assigned = jnp.where(rows.pinned >= 0, rows.pinned, nearest)
        return _tallied(so_far, rows, assigned, centres), assigned

    start = _nothing_yet(centres) if so_far is None else so_far
    found, assignments = jax.lax.scan(block, start, rows)
    return found._replace(assignments=assignments)


def _scores(unit: jax.Array, centres: jax.Array) -> jax.Array:
    """(K, b) squared distances but for the row's own square, which changes no order."""
    return jnp.sum(centres**2, axis=1)[:, None] - 2 * _matmul(centres, unit.T)


def _nearest(scores: jax.Array) -> jax.Array:
    """(b,) int32 the first smallest entry of each column."""
    # Two reductions over the leading axis, each vectorised; argmin is not. (A row that
    # is not finite equals nothing: it goes to the last.)
    numbers = jnp.arange(len(scores), dtype=jnp.int32)[:, None]
    at = scores == _smallest(scores)
    return jnp.where(at, numbers, len(scores) - 1).min(axis=0)


def _smallest(scores: jax.Array) -> jax.Array:
    """The minimum over the leading axis of numbers; faster than one that minds NaN."""

    def lower(one: jax.Array, other: jax.Array) -> jax.Array:
        return jax.lax.select(one < other, one, other)

    infinity = np.array(np.inf, scores.dtype)
    return jax.lax.reduce(scores, infinity, lower, (0,))


def _nothing_yet(centres: jax.Array) -> _Pass:
    zero = jnp.zeros((), centres.dtype)
    return _Pass(
        jnp.zeros(()),  # filled in when all rows were visited
        zero,
        jnp.zeros_like(centres),
        jnp.zeros(len(centres), jnp.int32),
        zero,
        jnp.zeros_like(centres[0]),
    )


def _tallied(
    so_far: _Pass, rows: _Rows, assigned: jax.Array, centres: jax.Array
) -> _Pass:
    """`so_far` with one block of rows added, each in the cluster `assigned` to it."""
    unit, pinned, real, _ = rows
    counted = jnp.where(real, assigned, -1)
    sums, counts = _quick_sums_and_counts(unit, counted, len(centres))
    # From the difference, not from scores: those lose digits in tight clusters.
    distances = jnp.sum((unit - centres[assigned]) ** 2, axis=1)
    open_distances = jnp.where(real & (pinned < 0), distances, -1)
    far = jnp.argmax(open_distances)
    farther = open_distances[far] > so_far.far_distance
    return _Pass(
        so_far.assignments,
        so_far.inertia + jnp.sum(jnp.where(real, distances, 0)),
        so_far.sums + sums,
        so_far.counts + counts,
        jnp.where(farther, open_distances[far], so_far.far_distance),
        jnp.where(farther, unit[far], so_far.far_row),
    )


def _squared_distances(rows: jax.Array, centres: jax.Array) -> jax.Array:
    """(K, N), from a matrix product; at least 0."""
    products = _matmul(centres, rows.T)
    squares = jnp.sum(centres**2, axis=1)[:, None] + jnp.sum(rows**2, axis=1)
    return jnp.maximum(squares - 2 * products, 0)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
