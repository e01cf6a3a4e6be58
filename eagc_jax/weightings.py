"""Weightings: pure functions from a ``(K, K)`` Gram matrix to ``(K,)`` weights.

Each has the name of its aggregator in :mod:`eagc_jax.aggregators`, takes arrays or
NumPy arrays, and works under ``jax.jit`` and ``jax.vmap``.
"""

from eagc_jax.aggregators._nonconflict import ensure_nonconflict
from eagc_jax.aggregators.a_gem import a_gem_weights as a_gem
from eagc_jax.aggregators.aligned_mtl import aligned_mtl_weights as aligned_mtl
from eagc_jax.aggregators.cagrad import cagrad_weights as cagrad
from eagc_jax.aggregators.conflict_free import conflict_free_weights as conflict_free
from eagc_jax.aggregators.dualproj import dualproj_weights as dualproj
from eagc_jax.aggregators.elastic_cone import elastic_cone_weights as elastic_cone
from eagc_jax.aggregators.epo import epo_weights as epo
from eagc_jax.aggregators.fairgrad import fairgrad_weights as fairgrad
from eagc_jax.aggregators.gem import gem_weights as gem
from eagc_jax.aggregators.gradvac import gradvac_weights as gradvac
from eagc_jax.aggregators.imtl_g import imtl_g_weights as imtl_g
from eagc_jax.aggregators.mean import mean_weights as mean
from eagc_jax.aggregators.mgda import mgda_weights as mgda
from eagc_jax.aggregators.modo import modo_weights as modo
from eagc_jax.aggregators.nash_mtl import nash_mtl_weights as nash_mtl
from eagc_jax.aggregators.pcd import pcd_weights as pcd
from eagc_jax.aggregators.pcgrad import pcgrad_weights as pcgrad
from eagc_jax.aggregators.pmtl import pmtl_weights as pmtl
from eagc_jax.aggregators.random_weighting import (
    random_weighting_weights as random_weighting,
)
from eagc_jax.aggregators.sdmgrad import sdmgrad_weights as sdmgrad
from eagc_jax.aggregators.upgrad import upgrad_weights as upgrad

__all__ = [
    "a_gem",
    "aligned_mtl",
    "cagrad",
    "conflict_free",
    "dualproj",
    "elastic_cone",
    "ensure_nonconflict",
    "epo",
    "fairgrad",
    "gem",
    "gradvac",
    "imtl_g",
    "mean",
    "mgda",
    "modo",
    "nash_mtl",
    "pcd",
    "pcgrad",
    "pmtl",
    "random_weighting",
    "sdmgrad",
    "upgrad",
]
