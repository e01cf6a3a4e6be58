"""Where rows belong, given centres, and how sure that is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import minimize_scalar

from eagc_jax.gcd.clustering import _lloyd
from eagc_jax.gcd.clustering._chunks import Chunks, Rows, unit_rows
from eagc_jax.gcd.clustering.semi_supervised import checked_features

_BLOCK_ENTRIES = 2**19
# Of the temperature, in units of squared distance; between unit rows it is at most 4.
_LOWEST, _HIGHEST = 1e-3, 10.0


class Assigned(NamedTuple):
    """What the centres say of each row; NumPy arrays of N entries."""

    clusters: np.ndarray  # int32, of the nearest centre, the first of several
    distances: np.ndarray  # squared distance to it
    margins: np.ndarray  # how much farther the second nearest is, squared; at least 0
    probabilities: np.ndarray  # of the nearest, in (0, 1]


def assign(
    features: ArrayLike, centres: ArrayLike, *, temperature: float = 0.1
) -> Assigned:
    r"""The nearest centre of each row, its lead over the second, and a probability.

    With `u` the l2-normalised features, `d_ik = |u_i - c_k|^2` and T the temperature, the
    probability is the softmax of `-d_i / T` over all clusters, taken at the nearest. It
    is what a mixture of equally wide and equally frequent clusters would give, with
    variance T / 2 in every direction. `fit_temperature` finds T from labeled rows.

    Args:
      features: (N, D) floats, finite, normalised here; read in chunks, so that a
        memory-mapped file may be larger than memory.
      centres: (K, D) floats, as `semi_supervised_kmeans` returns them.
      temperature: T > 0, in units of squared distance.

    Returns:
      `Assigned(clusters, distances, margins, probabilities)`. With one centre, margins
      are infinite and probabilities one.

    Raises:
      ValueError: a wrong shape, dtype or temperature, or a row that is not finite.

    Examples:
      >>> found = assign(np.array([[2.0, 0.1], [0.0, 1.0]]), np.eye(2), temperature=0.5)
      >>> found.clusters.tolist(), [f"{p:.2f}" for p in found.probabilities]
      ([0, 1], ['0.98', '0.98'])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    rows, centres = _checked(features, centres)
    chunks = Chunks(rows, np.full(len(rows), -1))
    parts = [
        [
            np.asarray(x)[: chunk.stop - chunk.start]
            for x in _nearest_two(chunk.rows, chunk.scales, centres, temperature)
        ]
        for chunk in chunks
    ]
    return Assigned(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _checked(features: ArrayLike, given: ArrayLike) -> tuple[Rows, jax.Array]:
    rows = checked_features(features)
    centres = jnp.asarray(given)
    if centres.ndim != 2 or not len(centres) or centres.shape[1] != rows.shape[1]:
        raise ValueError(
            f"centres must have shape (K, {rows.shape[1]}), as wide as the features, "
            f"got {centres.shape}"
        )
    dtype = jnp.promote_types(rows.dtype, jnp.float32)
    return rows, centres.astype(jax.dtypes.canonicalize_dtype(dtype))


@jax.jit
def _nearest_two(
    rows: jax.Array, scales: jax.Array, centres: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, ...]:
    unit = unit_rows(rows, scales)
    blocks = _lloyd._in_blocks(
        unit, jnp.zeros(len(unit), jnp.int32), len(centres), entries=_BLOCK_ENTRIES
    )
    numbers = jnp.arange(len(centres), dtype=jnp.int32)[:, None]

    def block(unit: jax.Array) -> tuple[jax.Array, ...]:
        scores = _lloyd._scores(unit, centres)
        first = _lloyd._nearest(scores)
        others = jnp.where(numbers == first, jnp.inf, scores)
        second = _lloyd._nearest(others)
        # From differences, not from scores: those lose digits near a centre.
        nearest, next_ = (
            jnp.sum((unit - centres[which]) ** 2, axis=1) for which in (first, second)
        )
        margins = jnp.where(len(centres) > 1, jnp.maximum(next_ - nearest, 0), jnp.inf)
        lower = (scores - scores.min(axis=0)) / temperature
        return first, nearest, margins, 1 / jnp.sum(jnp.exp(-lower), axis=0)

    found = jax.lax.map(block, blocks.unit)
    return jax.tree.map(lambda x: x.reshape(-1)[: len(unit)], found)


def fit_temperature(
    features: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    assignments: ArrayLike,
) -> float:
    r"""The temperature under which the labeled rows' classes are most likely.

    It minimises the mean of `-log softmax(-d_i / T)[label_i]` over the labeled rows, the
    softmax over all clusters. A row takes part in its own centre, which is therefore too
    near; the distance to the mean of its n - 1 companions is used instead, which is
    `n / (n - 1)` times as long. No label of a novel class is needed, nor used: novel
    clusters are taken to be as wide as the known ones.

    Args:
      features: (N, D) floats, finite; normalised here, read in chunks.
      centres: (K, D) floats, means of their rows.
      labels: (N,) integers, the cluster of each labeled row, -1 elsewhere.
      assignments: (N,) integers, the cluster of each row, whose rows are counted.

    Returns:
      T in [0.001, 10]; 0.1 if no labeled row has a companion, or if K is 1.

    Raises:
      ValueError: a wrong shape, or a row that is not finite.

    Examples:
      >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.3, 1.0]])
      >>> centres = np.array([[1.0, 0.05], [0.15, 1.0]])
      >>> labels, clusters = np.array([0, 0, 1, -1]), np.array([0, 0, 1, 1])
      >>> round(fit_temperature(rows, centres, labels, clusters), 3)
      0.009
    """
    rows, centres = _checked(features, centres)
    labels, assignments = np.asarray(labels), np.asarray(assignments)
    for name, given in (("labels", labels), ("assignments", assignments)):
        if given.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} must have shape {rows.shape[:1]}, got {given.shape}"
            )
    counts = np.bincount(assignments, minlength=len(centres))
    (labeled,) = np.nonzero(labels >= 0)
    labeled = _some(labeled[counts[labels[labeled]] > 1])
    if not len(labeled) or len(centres) == 1:
        return 0.1
    own = labels[labeled]
    distances = _distances(rows[labeled], centres)
    at = np.arange(len(own)), own
    distances[at] *= (counts[own] / (counts[own] - 1)) ** 2
    return _most_likely(distances, distances[at])


def _some(rows: np.ndarray) -> np.ndarray:
    """At most 2^14 of them, evenly spread: one number needs no more."""
    return rows[:: -(-len(rows) // 2**14)] if len(rows) else rows


def _distances(rows: Rows, centres: jax.Array) -> np.ndarray:
    """(N, K) squared distances."""
    chunks = Chunks(np.asarray(rows), np.full(len(rows), -1))
    parts = [
        np.asarray(_all_distances(chunk.rows, chunk.scales, centres)).T
        for chunk in chunks
    ]
    return np.concatenate(parts)[: len(rows)].astype(np.float64)


@jax.jit
def _all_distances(rows: jax.Array, scales: jax.Array, centres: jax.Array) -> jax.Array:
    return _lloyd._squared_distances(unit_rows(rows, scales), centres)


def _most_likely(distances: np.ndarray, own: np.ndarray) -> float:
    gaps = distances - own[:, None]

    def loss(log_temperature: float) -> float:
        scaled = -gaps / np.exp(log_temperature)
        highest = scaled.max(axis=1)
        rest = np.exp(scaled - highest[:, None]).sum(axis=1)
        return float(np.mean(highest + np.log(rest)))

    bounds = np.log(_LOWEST), np.log(_HIGHEST)
    found = minimize_scalar(loss, bounds=bounds, method="bounded").x
    return float(np.exp(found).round(6))
