"""Solvers of small dense problems of K unknowns, which work under jit and vmap."""

from eagc_jax.solvers.fair import fair
from eagc_jax.solvers.nnqp import SolveInfo, nnqp
from eagc_jax.solvers.nnqp_many import nnqp_many
from eagc_jax.solvers.pseudo_inverse import pseudo_inverse
from eagc_jax.solvers.simplex import frank_wolfe, project_simplex

__all__ = [
    "SolveInfo",
    "fair",
    "frank_wolfe",
    "nnqp",
    "nnqp_many",
    "project_simplex",
    "pseudo_inverse",
]
