"""K-means with and without labeled rows: arguments, checks, result."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from eagc_jax.gcd.clustering import _lloyd, _streamed
from eagc_jax.gcd.clustering._chunks import Rows, as_float, raise_unless_finite
from eagc_jax.gcd.clustering._lloyd import Clustering

# Entries of features that are put on the device whole, and normalised in one piece.
_WHOLE_ENTRIES = 2**26


def semi_supervised_kmeans(
    key: jax.Array,
    features: ArrayLike,
    num_clusters: int,
    labels: ArrayLike,
    labeled_mask: ArrayLike,
    *,
    restarts: int = 10,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    balanced: bool = False,
) -> Clustering:
    r"""K-means in which labeled rows never leave their class.

    With `u` the l2-normalised features, `a_i` the cluster of row i (its label where
    there is one) and `c_k` the centres, it lowers the inertia `sum_i |u_i - c_{a_i}|^2`:

    - Start: the centre of a known class is the mean of its labeled rows. The other
      centres are unlabeled rows, drawn one after another with probability proportional
      to the squared distance to the nearest centre so far (k-means++); of
      `2 + floor(log K)` draws the one that lowers the unlabeled rows' inertia most.
    - Iteration: centres become the means of their rows, then unlabeled rows go to the
      nearest centre, the lowest-numbered one of several.
    - A cluster that lost all its rows (never a known class) is moved to the unlabeled
      row that is farthest from its own centre: one cluster per iteration, the
      lowest-numbered first. No row is farther from a centre for it.
    - End: the inertia doesn't fall any more, or `(sum_k |shift of c_k|)^2 < tolerance`.
      A step that would raise the inertia, as rounding may, is not taken, so the
      inertia never rises.

    Of all restarts the one with the lowest inertia is returned, the earliest of several.
    The same key gives the same result. Called inside another `jit`, the values of
    `features`, `labels` and `labeled_mask` can't be checked.

    Many rows, from 2^26 numbers on, stay where they are, in a memory-mapped file for
    instance: every iteration reads them once, in chunks of 32 MiB, for all restarts. The
    rules are the same but for one: centres are then seeded on a sample of unlabeled
    rows, `max(2^15, 16 K)` of them, each as likely as another.

    Balanced, no cluster has more than `ceil(N / K)` rows, unless more than that are
    labeled with it. Unlabeled rows then go where the pairs of a row and a cluster, taken
    in the order of their distance, put them: into the cluster if it has room and the row
    has none yet (of equal distances the lower row first, then the lower cluster). This
    stable assignment is found exactly. It is not the assignment of the least inertia
    under these bounds, so an iteration may raise the inertia; the run ends there, with
    what it had before.

    Args:
      key: a JAX random key; each restart folds in its number.
      features: (N, D) floats, finite; normalised here. A zero row stays zero. An array
        of NumPy or JAX, or one that is memory-mapped; it is only read.
      num_clusters: K >= 1, known plus novel classes.
      labels: (N,) integers; in [0, K) on labeled rows, anything (e.g. -1) elsewhere.
        The known classes must be 0, 1, ... without a gap.
      labeled_mask: (N,) booleans, True where the label is known.
      restarts: independent starts, at least 1. They run in one program.
      max_iterations: at least 1, per restart.
      tolerance: at least 0; 0 iterates until nothing improves.
      balanced: whether the size of clusters is bounded; not inside another `jit`.

    Returns:
      `Clustering(assignments, centres, inertia, iterations, converged)`.

    Raises:
      ValueError: a wrong shape, dtype or number; a feature that is not finite; a label
        outside [0, K); a known class without labeled rows below one that has some;
        fewer unlabeled rows than novel clusters; or `balanced` inside another `jit`.

    Examples:
      The second class has no labels; its rows are found as cluster 1:

      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> found = semi_supervised_kmeans(
      ...     jax.random.key(0), rows, 2, jnp.array([0, -1, -1, -1]), jnp.arange(4) < 1
      ... )
      >>> found.assignments.tolist()
      [0, 0, 1, 1]

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022. Arthur and
      Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
    """
    rows, labels, mask = _checked_arrays(features, labels, labeled_mask)
    _check_numbers(len(rows), num_clusters, restarts, max_iterations, tolerance)
    traced = any(isinstance(x, Tracer) for x in (key, rows, labels, mask))
    if not any(isinstance(x, Tracer) for x in (rows, labels, mask)):
        _check_labels(labels, mask, num_clusters)
    if traced and balanced:
        raise ValueError(
            "balanced=True can't be used inside jit or vmap: call it outside"
        )
    if balanced or not (traced or rows.size <= _WHOLE_ENTRIES):
        return _streamed.cluster(
            key,
            rows,
            np.where(mask, labels, -1).astype(np.int32),
            max_iterations,
            tolerance,
            num_clusters=num_clusters,
            restarts=restarts,
            balanced=balanced,
        )
    floats, finite = _placed(rows)
    if not isinstance(finite, Tracer):
        raise_unless_finite(np.asarray(finite))
    return _lloyd.cluster(
        key,
        floats,
        _pinned(labels, mask),
        jnp.int32(max_iterations),
        jnp.float32(tolerance),
        num_clusters=num_clusters,
        restarts=restarts,
    )


def kmeans(
    key: jax.Array,
    features: ArrayLike,
    num_clusters: int,
    *,
    restarts: int = 10,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    balanced: bool = False,
) -> Clustering:
    """K-means on l2-normalised features: `semi_supervised_kmeans` without labels.

    Args:
      key: a JAX random key.
      features: (N, D) floats, finite; normalised here.
      num_clusters: K, at most N.
      restarts: independent starts, at least 1.
      max_iterations: at least 1, per restart.
      tolerance: at least 0, see `semi_supervised_kmeans`.
      balanced: whether no cluster may have more than `ceil(N / K)` rows.

    Returns:
      `Clustering(assignments, centres, inertia, iterations, converged)`.

    Raises:
      ValueError: as `semi_supervised_kmeans`.

    Examples:
      >>> rows = jnp.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
      >>> first, second, third = kmeans(jax.random.key(0), rows, 2).assignments.tolist()
      >>> first == second != third
      True

    References:
      Lloyd, "Least Squares Quantization in PCM", IEEE Trans. Inf. Theory, 1982.
    """
    size = np.shape(features)[:1]
    return semi_supervised_kmeans(
        key,
        features,
        num_clusters,
        np.full(size, -1),
        np.zeros(size, bool),
        restarts=restarts,
        max_iterations=max_iterations,
        tolerance=tolerance,
        balanced=balanced,
    )


# One compilation each, where the operations by themselves are several.
@jax.jit
def _placed(rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The rows as floats on the device, and which are finite."""
    floats = as_float(rows)
    return floats, jnp.isfinite(floats).all(axis=1)


@jax.jit
def _pinned(labels: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, labels, -1).astype(jnp.int32)


def _as_array(values: ArrayLike) -> Rows:
    """The array itself where it is one: of JAX, of NumPy, memory-mapped."""
    return values if isinstance(values, jax.Array | np.ndarray) else np.asarray(values)


def checked_features(features: ArrayLike) -> Rows:
    """An array of rows, on the device or not."""
    rows = _as_array(features)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"features must have shape (N, D) with N, D >= 1, got {rows.shape}"
        )
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        raise ValueError(f"features must be floating point, got {rows.dtype}")
    return rows


def _checked_arrays(
    features: ArrayLike, labels: ArrayLike, labeled_mask: ArrayLike
) -> tuple[Rows, Rows, Rows]:
    rows = checked_features(features)
    classes, mask = _as_array(labels), _as_array(labeled_mask)
    for name, array in (("labels", classes), ("labeled_mask", mask)):
        if array.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} must have shape {rows.shape[:1]}, one entry per row of "
                f"features, got {array.shape}"
            )
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {classes.dtype}")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"labeled_mask must be boolean, got {mask.dtype}")
    return rows, classes, mask


def _check_numbers(
    size: int, num_clusters: int, restarts: int, max_iterations: int, tolerance: float
) -> None:
    for name, value in (
        ("num_clusters", num_clusters),
        ("restarts", restarts),
        ("max_iterations", max_iterations),
    ):
        if not value >= 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    if size < num_clusters:
        raise ValueError(
            f"features must have at least as many rows as num_clusters = "
            f"{num_clusters}, got {size}"
        )


def _check_labels(labels: Rows, labeled: Rows, num_clusters: int) -> None:
    mask = np.asarray(labeled)
    given = np.asarray(labels)[mask]
    outside = given[(given < 0) | (given >= num_clusters)]
    if outside.size:
        raise ValueError(
            f"labels must be in [0, {num_clusters}) on labeled rows, got {outside[0]}"
        )
    counts = np.bincount(given, minlength=num_clusters)
    num_known = np.max(np.flatnonzero(counts), initial=-1) + 1
    if (counts[:num_known] == 0).any():
        raise ValueError(
            f"class {np.argmin(counts[:num_known])} has no labeled row, but class "
            f"{num_known - 1} has: number the known classes 0, 1, ... without a gap"
        )
    if np.sum(~mask) < num_clusters - num_known:
        raise ValueError(
            f"labeled_mask leaves {np.sum(~mask)} unlabeled rows, fewer than the "
            f"{num_clusters - num_known} clusters without labels"
        )
