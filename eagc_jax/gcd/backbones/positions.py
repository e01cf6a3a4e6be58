"""Position embeddings for another number of patches, as the published models do it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Interpolation(NamedTuple):
    """How a model's positions are interpolated; the two official variants differ.

    DINO and DINOv2 without registers: a cubic kernel with a = -0.75 and no smoothing,
    on a scale that is off by `offset` patches. DINOv2 with registers: a = -0.5, made
    wider where the grid shrinks, and no offset.
    """

    antialias: bool
    offset: float


PLAIN = Interpolation(antialias=False, offset=0.1)
SMOOTH = Interpolation(antialias=True, offset=0.0)


def interpolate(pos_embed: np.ndarray, grid: int, variant: Interpolation) -> np.ndarray:
    """Positions of a square grid of patches for another square grid.

    Args:
      pos_embed: (1, 1 + M^2, width): the class token's, then those of the patches.
      grid: patches a side that are wanted.
      variant: one of the two above.

    Returns:
      (1, 1 + grid^2, width), of the dtype that came in; as it is if M is `grid`.

    Raises:
      ValueError: the number of positions is not 1 more than a square.

    Examples:
      >>> interpolate(np.ones((1, 1 + 3 * 3, 2)), 2, SMOOTH).shape
      (1, 5, 2)
    """
    source = math.isqrt(pos_embed.shape[1] - 1)
    if pos_embed.ndim != 3 or source**2 + 1 != pos_embed.shape[1]:
        raise ValueError(
            "position embeddings must have shape (1, 1 + M * M, width), got "
            f"{pos_embed.shape}"
        )
    if source == grid:
        return pos_embed
    along = _weights(source, grid, variant)
    patches = pos_embed[0, 1:].astype(np.float64).reshape(source, source, -1)
    moved = np.einsum("ip,jq,pqd->ijd", along, along, patches, optimize=True)
    moved = np.concatenate([pos_embed[0, :1], moved.reshape(grid * grid, -1)])
    return moved[None].astype(pos_embed.dtype)


def _weights(source: int, target: int, variant: Interpolation) -> np.ndarray:
    """(target, source): each target's share in each source, along one axis."""
    scale = source / (target + variant.offset)
    centre = (np.arange(target) + 0.5) * scale - 0.5
    if not variant.antialias:
        return _clamped(centre, source)
    wide = max(scale, 1.0)
    weights = _cubic((np.arange(source) - centre[:, None]) / wide, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _clamped(centre: np.ndarray, source: int) -> np.ndarray:
    """Four taps; those beyond the border fall on it."""
    weights = np.zeros((len(centre), source))
    rows = np.arange(len(centre))
    for tap in range(-1, 3):
        at = np.floor(centre) + tap
        column = np.clip(at, 0, source - 1).astype(int)
        np.add.at(weights, (rows, column), _cubic(at - centre, -0.75))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
