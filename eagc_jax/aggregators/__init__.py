"""Aggregators: per-objective updates ``(K, ...)`` to one update ``(...)``.

Each aggregator is an Optax transformation that comes first in a chain. Most compute the
Gram matrix of the gradients, weights from it by a pure function
(:mod:`eagc_jax.weightings`), and the gradients' weighted sum. Each has a file of its own;
CONTRIBUTING.md and the package ``_base`` say how to add one.
"""

from eagc_jax.aggregators._base import AggregateState, GramOptions, from_weighting
from eagc_jax.aggregators._direct import DirectOptions, DirectState
from eagc_jax.aggregators._weighting import Problem, Weighting
from eagc_jax.aggregators.a_gem import a_gem
from eagc_jax.aggregators.accumulate import accumulate_objectives
from eagc_jax.aggregators.aligned_mtl import aligned_mtl
from eagc_jax.aggregators.cagrad import cagrad
from eagc_jax.aggregators.chebyshev import chebyshev
from eagc_jax.aggregators.conflict_free import conflict_free
from eagc_jax.aggregators.cosmos import cosmos
from eagc_jax.aggregators.db_mtl import db_mtl
from eagc_jax.aggregators.dualproj import dualproj
from eagc_jax.aggregators.dwa import dwa
from eagc_jax.aggregators.elastic_cone import elastic_cone
from eagc_jax.aggregators.epo import epo
from eagc_jax.aggregators.excess_mtl import excess_mtl
from eagc_jax.aggregators.fairgrad import fairgrad
from eagc_jax.aggregators.famo import famo
from eagc_jax.aggregators.gcond import gcond
from eagc_jax.aggregators.gem import gem
from eagc_jax.aggregators.gls import gls
from eagc_jax.aggregators.graddrop import graddrop
from eagc_jax.aggregators.gradnorm import gradnorm
from eagc_jax.aggregators.gradvac import gradvac
from eagc_jax.aggregators.imtl_g import imtl_g
from eagc_jax.aggregators.imtl_l import imtl_l
from eagc_jax.aggregators.krum import krum
from eagc_jax.aggregators.mean import mean
from eagc_jax.aggregators.mgda import mgda
from eagc_jax.aggregators.moco import moco
from eagc_jax.aggregators.modo import modo
from eagc_jax.aggregators.momentum_conflict_free import momentum_conflict_free
from eagc_jax.aggregators.nash_mtl import nash_mtl
from eagc_jax.aggregators.pcd import PcdState, pcd
from eagc_jax.aggregators.pcgrad import pcgrad
from eagc_jax.aggregators.pmtl import pmtl
from eagc_jax.aggregators.random_weighting import random_weighting
from eagc_jax.aggregators.sam_gs import sam_gs
from eagc_jax.aggregators.sdmgrad import sdmgrad
from eagc_jax.aggregators.smooth_chebyshev import smooth_chebyshev
from eagc_jax.aggregators.trimmed_mean import trimmed_mean
from eagc_jax.aggregators.uncertainty_weighting import uncertainty_weighting
from eagc_jax.aggregators.upgrad import upgrad

__all__ = [
    "AggregateState",
    "DirectOptions",
    "DirectState",
    "GramOptions",
    "PcdState",
    "Problem",
    "Weighting",
    "a_gem",
    "accumulate_objectives",
    "aligned_mtl",
    "cagrad",
    "chebyshev",
    "conflict_free",
    "cosmos",
    "db_mtl",
    "dualproj",
    "dwa",
    "elastic_cone",
    "epo",
    "excess_mtl",
    "fairgrad",
    "famo",
    "from_weighting",
    "gcond",
    "gem",
    "gls",
    "graddrop",
    "gradnorm",
    "gradvac",
    "imtl_g",
    "imtl_l",
    "krum",
    "mean",
    "mgda",
    "moco",
    "modo",
    "momentum_conflict_free",
    "nash_mtl",
    "pcd",
    "pcgrad",
    "pmtl",
    "random_weighting",
    "sam_gs",
    "sdmgrad",
    "smooth_chebyshev",
    "trimmed_mean",
    "uncertainty_weighting",
    "upgrad",
]
