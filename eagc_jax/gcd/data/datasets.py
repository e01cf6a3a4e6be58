"""Images with their classes, and the digits that scikit-learn ships."""

import dataclasses
from typing import Any

import numpy as np
from sklearn import datasets


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with their classes.

    Raises:
      ValueError: shapes disagree, values leave [0, 1], or a label has no name.
    """

    name: str
    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    labels: np.ndarray  # (N,) integers, index into class_names
    class_names: tuple[str, ...]

    def __post_init__(self):
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise ValueError(
                "images must have shape (N, H, W, C) and labels (N,), got "
                f"{self.images.shape} and {self.labels.shape}"
            )
        if self.images.min() < 0 or self.images.max() > 1:
            raise ValueError("images must lie in [0, 1]")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels must lie in [0, {len(self.class_names)})")


def load_digits() -> ImageDataset:
    """1797 handwritten digits of 8 x 8 gray pixels, shipped with scikit-learn.

    Examples:
      >>> load_digits().images.shape
      (1797, 8, 8, 1)

    References:
      Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    digits: Any = datasets.load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    return ImageDataset("digits", images, digits.target.astype(np.int32), names)
