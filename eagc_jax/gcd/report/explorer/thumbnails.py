"""Small pictures of items, as large as a number of bytes allows."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from eagc_jax.gcd.sources import BadItem
from eagc_jax.gcd.sources.records import Items

# Longer side in pixels and quality, the best first.
LEVELS = ((160, 75), (128, 72), (96, 70), (80, 65), (64, 60), (48, 50), (40, 40))
_TRIED = 48  # pictures by which a level is chosen
_SPARE = 1.15  # of their mean: others may be larger
_ENLARGED = 96  # longer side that smaller pictures are brought to, by whole steps
_AT_ONCE = 64
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class Thumbnails:
    """Pictures by row, WebP as base64."""

    pictures: dict[int, str]
    side: int  # the longer side at most, in pixels
    left_out: int  # rows that the bytes did not suffice for


def thumbnails(items: Items, rows: Sequence[int], most_bytes: int) -> Thumbnails:
    """Pictures of these rows, those that come first where not all fit.

    Args:
      items: images.
      rows: whose pictures are wanted, the most wanted first.
      most_bytes: of all pictures together, as base64.

    Returns:
      The pictures; items that can't be read have none.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> digits = sources.load("digits")
      >>> found = thumbnails(digits.items, [0, 5, 7], 10_000)
      >>> sorted(found.pictures), found.left_out
      ([0, 5, 7], 0)
    """
    level = _level(items, rows, most_bytes)
    pictures: dict[int, str] = {}
    used = left_out = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            if used >= most_bytes:
                left_out += len(some)
                continue
            made = pool.map(lambda row: picture(items, row, *level), some)
            for row, one in zip(some, made, strict=True):
                if used + len(one) > most_bytes:
                    left_out += 1
                elif one:
                    pictures[row] = one
                    used += len(one)
    return Thumbnails(pictures, level[0], left_out)


def _level(items: Items, rows: Sequence[int], most_bytes: int) -> tuple[int, int]:
    """The best at which all are likely to fit; else the smallest."""
    tried = rows[:: -(-len(rows) // _TRIED)] if len(rows) else ()
    for level in LEVELS:
        sizes = [len(picture(items, row, *level)) for row in tried]
        if not sizes or np.mean(sizes) * _SPARE * len(rows) <= most_bytes:
            return level
    return LEVELS[-1]


def picture(items: Items, row: int, side: int, quality: int) -> str:
    """One picture as base64 of WebP; empty where the item can't be read."""
    try:
        pixels = np.asarray(items[row])
    except (BadItem, OSError):
        return ""
    image = _image(pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    elif max(image.size) * 2 <= min(_ENLARGED, side):
        times = min(_ENLARGED, side) // max(image.size)
        size = (image.width * times, image.height * times)
        image = image.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _image(pixels: np.ndarray) -> Image.Image:
    """Of (H, W) or (H, W, C), uint8 or floats in [0, 1]."""
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
