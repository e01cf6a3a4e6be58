"""Fashion-MNIST: clothes."""

from __future__ import annotations

import os

from eagc_jax.gcd.sources.named._idx import IMAGES, LABELS, drawn
from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register

# Where the Debian package dataset-fashion-mnist puts the files.
DEBIAN = "/usr/share/datasets/fashion-mnist"

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@register("fashion-mnist")
def fashion_mnist(
    root: str | os.PathLike[str] | None = None, *, images: int = 10_000, seed: int = 0
) -> Records:
    """Clothes in 28 x 28 gray pixels: a draw from the 60,000 training images.

    Files, draw and arguments are as for MNIST. The first five classes are known.

    Args:
      root: folder with the two files of the training images, or one that holds it as
        `fashion-mnist`. By default also where Debian's package dataset-fashion-mnist
        puts it.
      images: how many.
      seed: of the draw.

    Returns:
      Records of float32 (28, 28, 1) images; ids are numbers in the file.

    Raises:
      FileNotFoundError: the files are not there; the message says how to get them.
      ValueError: a file is not what it should be, or has fewer images than asked for.

    References:
      Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
      Machine Learning Algorithms", 2017.
    """
    advice = (
        "On Debian and Ubuntu, `apt-get install dataset-fashion-mnist` brings it; "
        f"otherwise give the folder with {IMAGES}.gz and {LABELS}.gz."
    )
    folder = locate("Fashion-MNIST", root, ["fashion-mnist"], advice, [DEBIAN])
    return drawn("fashion-mnist", folder, CLASSES, images, seed, advice)
