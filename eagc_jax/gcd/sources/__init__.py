"""Where items come from: folders, tables, text, embeddings, named benchmarks."""

from eagc_jax.gcd.sources import named
from eagc_jax.gcd.sources.loader import Reader, read
from eagc_jax.gcd.sources.opening import open_source
from eagc_jax.gcd.sources.posing import (
    fully_labeled,
    half_of_each_group,
    pose,
    pose_half,
)
from eagc_jax.gcd.sources.records import (
    ArrayItems,
    BadItem,
    ChosenItems,
    Items,
    Kind,
    OnBadItem,
    Records,
)
from eagc_jax.gcd.sources.registry import benchmarks, load, register, unregister
from eagc_jax.gcd.sources.strings import RowNumbers, Strings, shown

__all__ = [
    "ArrayItems",
    "BadItem",
    "ChosenItems",
    "Items",
    "Kind",
    "OnBadItem",
    "Reader",
    "Records",
    "RowNumbers",
    "Strings",
    "benchmarks",
    "fully_labeled",
    "half_of_each_group",
    "load",
    "named",
    "open_source",
    "pose",
    "pose_half",
    "read",
    "register",
    "shown",
    "unregister",
]
