"""Where items come from: folders, tables, text, embeddings, named benchmarks."""

from eagc_jax.gcd.sources.records import ArrayItems, BadItem, Items, Kind, Records

__all__ = ["ArrayItems", "BadItem", "Items", "Kind", "Records"]
