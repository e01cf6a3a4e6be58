"""The digits that scikit-learn ships."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.sources.posing import fully_labeled, pose
from eagc_jax.gcd.sources.records import ArrayItems, Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import RowNumbers


@register("digits")
def digits(
    root: str | os.PathLike[str] | None = None,
    *,
    known_classes: Sequence[int] = range(5),
    labeled_share: float = 0.5,
    seed: int = 0,
) -> Records:
    """1797 handwritten digits of 8 x 8 gray pixels, shipped with scikit-learn.

    Args:
      root: not needed; the data is part of scikit-learn.
      known_classes: by default 0 to 4.
      labeled_share: of the known digits' images.
      seed: of the draw of labels.

    Returns:
      Records whose items are float32 (8, 8, 1) in [0, 1].

    Examples:
      >>> digits().items.array.shape
      (1797, 8, 8, 1)

    References:
      Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn import datasets

    pixels, classes = datasets.load_digits(return_X_y=True)
    images = (np.asarray(pixels) / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    names = tuple(map(str, range(10)))
    records = fully_labeled(
        "digits",
        "image",
        ArrayItems(images),
        RowNumbers(len(images)),
        np.asarray(classes),
        names,
    )
    return pose(records, known_classes, labeled_share=labeled_share, seed=seed)
