"""Clusters of bounded size: the stable assignment of rows to clusters that have room.

Take all pairs of an unlabeled row and a cluster in the order of their distance (then of
the row's number, then of the cluster's), and put the row into the cluster if the row has
none yet and the cluster has room. That is the only assignment in which no row and no
cluster would both gain by leaving for each other, so it can be found in rounds as well,
from a few nearest clusters of each row: every row asks the nearest cluster that
might take it, every cluster keeps the nearest of those that ask, as far as it has room,
and those that it sends away ask on.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.clustering import _lloyd
from eagc_jax.gcd.clustering._chunks import Chunks, unit_rows

_CANDIDATES = 8  # clusters that a row may ask before its distances are computed anew

# Of row numbers, and for each cluster the distance and the number of the last row that
# it keeps: for each row the clusters that would take it, nearest first, and their
# distances, inf behind the last.
Candidates = Callable[
    [np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]


def room(size: int, counts: np.ndarray) -> np.ndarray:
    """(K,) places for unlabeled rows: ceil(N / K) less the labeled rows, at least 0."""
    return np.maximum(-(-size // len(counts)) - counts, 0)


def assigned(chunks: Chunks, centres: jax.Array, room: np.ndarray) -> np.ndarray:
    """(N,) int32: the class of labeled rows, the stable assignment of the others."""
    result = np.array(chunks.pinned, np.int32)
    (unlabeled,) = np.nonzero(result < 0)

    def candidates(
        rows: np.ndarray, last_cost: np.ndarray, last_row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for chunk in chunks.of(unlabeled[rows]):
            numbers = np.full(len(chunk.rows), len(unlabeled), np.int32)
            numbers[: chunk.stop - chunk.start] = rows[chunk.start : chunk.stop]
            limits = np.asarray(last_cost, centres.dtype), last_row
            parts.append(
                _candidates(chunk.rows, chunk.scales, numbers, centres, *limits)
            )
        which, distances = (np.concatenate(x) for x in zip(*parts, strict=True))
        return which[: len(rows)], distances[: len(rows)]

    result[unlabeled] = stable(len(unlabeled), room, candidates)
    return result


@jax.jit
def _candidates(
    rows: jax.Array,
    scales: jax.Array,
    numbers: jax.Array,
    centres: jax.Array,
    last_cost: jax.Array,
    last_row: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    unit = unit_rows(rows, scales)
    blocks = _lloyd._in_blocks(unit, numbers, len(centres))
    number = min(_CANDIDATES, len(centres))

    def block(part: _lloyd._Rows) -> tuple[jax.Array, jax.Array]:
        distances = _lloyd._squared_distances(centres, part.unit)  # (b, K)
        earlier = (distances == last_cost) & (part.pinned[:, None] < last_row)
        takes = (distances < last_cost) | earlier
        nearest, which = jax.lax.top_k(-jnp.where(takes, distances, jnp.inf), number)
        return which.astype(jnp.int32), -nearest

    found = jax.lax.map(block, blocks)
    return jax.tree.map(lambda x: x.reshape(-1, number)[: len(unit)], found)


def stable(size: int, room: np.ndarray, candidates: Candidates) -> np.ndarray:
    """(size,) cluster of each row; `room` must hold them all."""
    choice, cost = np.full(size, -1, np.int32), np.full(size, np.inf)
    # The last row that a full cluster keeps: nobody after it is taken any more.
    last_cost = np.where(room > 0, np.inf, -np.inf)
    last_row = np.full(len(room), size, np.int32)
    which, distances = candidates(np.arange(size), last_cost, last_row)
    asking = np.arange(size)
    while asking.size:
        takes = functools.partial(_takes, last_cost, last_row)
        open_ = takes(which[asking], distances[asking], asking)
        stuck = asking[~open_.any(axis=1)]
        if stuck.size:
            which[stuck], distances[stuck] = candidates(stuck, last_cost, last_row)
            open_ = takes(which[asking], distances[asking], asking)
        first = open_.argmax(axis=1)
        choice[asking] = which[asking, first]
        cost[asking] = distances[asking, first]
        asked = np.unique(choice[asking])
        asking = _sent_away(choice, cost, room, asked, last_cost, last_row)
        choice[asking] = -1
    return choice


def _takes(
    last_cost: np.ndarray,
    last_row: np.ndarray,
    which: np.ndarray,
    distances: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """Whether each candidate would take the row, in the places that it has."""
    limits = last_cost[which]
    earlier = (distances == limits) & (rows[:, None] < last_row[which])
    return np.isfinite(distances) & ((distances < limits) | earlier)


def _sent_away(
    choice: np.ndarray,
    cost: np.ndarray,
    room: np.ndarray,
    asked: np.ndarray,
    last_cost: np.ndarray,
    last_row: np.ndarray,
) -> np.ndarray:
    """Rows for which the clusters that were asked have no room; moves their limits."""
    was_asked = np.zeros(len(room), bool)
    was_asked[asked] = True
    (members,) = np.nonzero((choice >= 0) & was_asked[choice])
    members = members[np.lexsort((members, cost[members], choice[members]))]
    clusters = choice[members]
    starts = np.searchsorted(clusters, asked)
    ranks = np.arange(len(members)) - np.repeat(
        starts, np.diff(np.append(starts, len(members)))
    )
    last = members[ranks == room[clusters] - 1]
    last_cost[choice[last]], last_row[choice[last]] = cost[last], last
    return np.sort(members[ranks >= room[clusters]])
