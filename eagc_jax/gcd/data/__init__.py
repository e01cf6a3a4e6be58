"""Images, the split into known and novel categories, batches and augmentations."""

from eagc_jax.gcd.data.cifar10 import read_cifar10
from eagc_jax.gcd.data.datasets import ImageDataset, load_digits
from eagc_jax.gcd.data.idx import load_fashion_mnist, load_mnist, read_idx
from eagc_jax.gcd.data.omniglot import load_omniglot
from eagc_jax.gcd.data.protocols import (
    LOADERS,
    PROTOCOLS,
    Protocol,
    half_of_each_group,
    load_split,
)
from eagc_jax.gcd.data.splits import DiscoverySplit, split_categories

__all__ = [
    "LOADERS",
    "PROTOCOLS",
    "DiscoverySplit",
    "ImageDataset",
    "Protocol",
    "half_of_each_group",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "load_omniglot",
    "load_split",
    "read_cifar10",
    "read_idx",
    "split_categories",
]
