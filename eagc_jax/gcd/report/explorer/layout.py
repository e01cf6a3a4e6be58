"""Where each item lies on the map."""

from __future__ import annotations

import numpy as np

from eagc_jax.gcd.report.feature_map import embed

MAPPED = 1_200  # items that t-SNE places; it takes some five seconds for them
_NEAR = 4
_BLOCK = 4_096
_SEED = 0


def place(
    features: np.ndarray, clusters: np.ndarray, mapped: int = MAPPED
) -> np.ndarray:
    """(N, 2) positions in [0, 1], near each other where features are.

    t-SNE places a sample, some of every cluster; each other item is put between the four
    of the sample that are nearest to it, with the weight of their nearness, and a little
    aside, so that items do not hide each other. Equal input gives equal output.

    Args:
      features: (N, D) floats, finite; directions count.
      clusters: (N,) integers.
      mapped: size of the sample.

    Examples:
      >>> rows = np.repeat(np.eye(3), 4, axis=0)
      >>> found = place(rows, np.repeat(np.arange(3), 4))
      >>> found.shape, bool((found >= 0).all() and (found <= 1).all())
      ((12, 2), True)
    """
    unit = unit_rows(features)
    chosen = sample(clusters, mapped)
    positions = _scaled(embed(unit[chosen]))
    if len(chosen) == len(unit):
        return positions
    found = np.empty((len(unit), 2))
    landmarks = unit[chosen]
    near = min(_NEAR, len(chosen))
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ landmarks.T
        nearest = np.argpartition(-cosines, near - 1, axis=1)[:, :near]
        gaps = 1 - np.take_along_axis(cosines, nearest, axis=1)
        weights = 1 / np.maximum(gaps, 1e-6) ** 2
        weights /= weights.sum(axis=1, keepdims=True)
        found[start : start + _BLOCK] = (weights[:, :, None] * positions[nearest]).sum(
            1
        )
    aside = np.random.default_rng(_SEED).normal(size=found.shape) * 0.004
    found += aside
    found[chosen] = positions
    return np.clip(found, 0, 1)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """(N, D) float32, of length 1; zero rows stay zero."""
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def sample(clusters: np.ndarray, most: int, seed: int = _SEED) -> np.ndarray:
    """Rows of at most so many items, in order: a share of every cluster, at least one.

    Examples:
      >>> sample(np.array([0] * 98 + [1, 1]), 10)[-1].item() >= 98
      True
    """
    size = len(clusters)
    if size <= most:
        return np.arange(size)
    mixed = np.random.default_rng(seed).permutation(size)
    ordered = mixed[np.argsort(clusters[mixed], kind="stable")]
    counts = np.bincount(clusters)
    starts = np.cumsum(counts) - counts
    rank = np.empty(size, int)
    rank[ordered] = np.arange(size) - np.repeat(starts, counts)
    # How far into its cluster: the first of each come first, then evenly.
    share = rank / counts[clusters]
    return np.sort(np.argsort(share, kind="stable")[:most])


def _scaled(positions: np.ndarray) -> np.ndarray:
    """Into the unit square, with the same scale for both axes."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    return 0.5 + 0.96 * (positions - (low + high) / 2) / span
