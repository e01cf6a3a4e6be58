"""Pareto fronts: many points in one program, their hypervolume, a figure."""

from eagc_jax.pareto.figure import plot_fronts
from eagc_jax.pareto.front import FrontMethod, ParetoFront, pareto_front
from eagc_jax.pareto.hypervolume import hypervolume, non_dominated

__all__ = [
    "FrontMethod",
    "ParetoFront",
    "hypervolume",
    "non_dominated",
    "pareto_front",
    "plot_fronts",
]
