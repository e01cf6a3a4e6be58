"""A cache of features, and of arrays made of them, found by their content.

The folder has two kinds of file, each an ordinary safetensors file:

    features/KEY/ID.safetensors   a shard: digests of items beside their features
    arrays/KEY.safetensors        one array made of features, such as a neighbour table

KEY is a digest of what the content depends on; a shard's ID is drawn at random. A file
is written whole under another name and then renamed, is never changed after that, and
nothing else records what there is: readers list the folder. So a killed program leaves
nothing wrong behind, and two programs may write at once.
"""

from eagc_jax.gcd.backbones.cache.arrays import cached_array
from eagc_jax.gcd.backbones.cache.files import DamagedFile, default_folder
from eagc_jax.gcd.backbones.cache.store import FeatureStore
from eagc_jax.gcd.backbones.cache.upkeep import Entry, Pruned, describe, prune

__all__ = [
    "DamagedFile",
    "Entry",
    "FeatureStore",
    "Pruned",
    "cached_array",
    "default_folder",
    "describe",
    "prune",
]
