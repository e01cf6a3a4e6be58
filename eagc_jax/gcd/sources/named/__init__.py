"""Named data sets, one a file; importing this package registers them all."""

from eagc_jax.gcd.sources.named import (
    banking77,
    cifar10,
    cifar100,
    clinc150,
    cub,
    digits,
    fashion_mnist,
    fgvc_aircraft,
    grocery,
    herbarium19,
    imagenet1k,
    imagenet100,
    mnist,
    omniglot,
    stanford_cars,
)

__all__ = [
    "banking77",
    "cifar10",
    "cifar100",
    "clinc150",
    "cub",
    "digits",
    "fashion_mnist",
    "fgvc_aircraft",
    "grocery",
    "herbarium19",
    "imagenet1k",
    "imagenet100",
    "mnist",
    "omniglot",
    "stanford_cars",
]
