"""Objectives of category discovery as functions of logits, projections and features.

Unless it says otherwise a function takes two views of B images concatenated along axis
0: rows 0..B-1 are view 1, rows B..2B-1 view 2 of the same images. Labels and the labeled
mask are given once per image. All losses are scalars in float32 (float64 if the input
is), and stay finite, gradients included, when no row of the batch is labeled.

References:
  Wen, Zhao and Qi, "Parametric Classification for Generalized Category Discovery: A
  Baseline Study" (SimGCD), ICCV 2023. Vaze et al., "Generalized Category Discovery"
  (vanilla GCD), CVPR 2022. Han et al., "Automatically Discovering and Learning New
  Visual Categories with Ranking Statistics" (AutoNovel, RankStats), ICLR 2020.
"""

from eagc_jax.gcd.losses.classification import (
    labeled_cross_entropy,
    mean_entropy_regularizer,
    self_distillation,
)
from eagc_jax.gcd.losses.contrastive import (
    info_nce,
    supervised_contrastive,
    vanilla_gcd_objectives,
)
from eagc_jax.gcd.losses.rankstats import (
    consistency,
    pairwise_bce,
    rank_statistics,
    rankstats_objectives,
    sigmoid_rampup,
)

__all__ = [
    "consistency",
    "info_nce",
    "labeled_cross_entropy",
    "mean_entropy_regularizer",
    "pairwise_bce",
    "rank_statistics",
    "rankstats_objectives",
    "self_distillation",
    "sigmoid_rampup",
    "supervised_contrastive",
    "vanilla_gcd_objectives",
]
