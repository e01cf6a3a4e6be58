"""Gram matrices and weighted sums, with one kernel for each platform.

``parts``: a Gram matrix as cosines, norms and a scale. ``matrices``: those of whole
trees, ``by_block`` put together; ``norms`` alone. ``products``: one leaf's, by platform,
chosen when a program is lowered, on CPU in ``slices``.
"""

from eagc_jax.gram.by_block import grams_by_leaf
from eagc_jax.gram.matrices import (
    check_gram_granularity,
    cross_gram,
    exponents_for,
    gram_blocks,
    gram_matrix,
    gram_of_tree,
    metric_blocks,
    products_with_rest,
)
from eagc_jax.gram.metric import LeafMetric, Metric, divided
from eagc_jax.gram.norms import row_norms
from eagc_jax.gram.parts import Gram, from_scaled, power_of_two, split_gram, whole
from eagc_jax.gram.products import may_be_sharded
from eagc_jax.gram.slices import sum_over_blocks

__all__ = [
    "Gram",
    "LeafMetric",
    "Metric",
    "check_gram_granularity",
    "cross_gram",
    "divided",
    "exponents_for",
    "from_scaled",
    "gram_blocks",
    "gram_matrix",
    "gram_of_tree",
    "grams_by_leaf",
    "may_be_sharded",
    "metric_blocks",
    "power_of_two",
    "products_with_rest",
    "row_norms",
    "split_gram",
    "sum_over_blocks",
    "whole",
]
