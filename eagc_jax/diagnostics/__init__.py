"""For your logs: what was decided, and how the objectives' gradients relate.

Deviation, overlap, cosines and norms are *of the raw gradients, before coordination*.
The released EAGC scripts measure after: anchor alignment adds one vector to both
gradients that the deviation compares, which lowers it by construction, whatever
training does.
"""

from eagc_jax.diagnostics.decisions import Decision, decisions
from eagc_jax.diagnostics.entanglement import gradient_deviation, subspace_overlap
from eagc_jax.diagnostics.layers import gradient_norms, pairwise_cosines
from eagc_jax.diagnostics.probing import AppliedReport, ProbeReport, Verdict, probe
from eagc_jax.diagnostics.state_report import Report, report

__all__ = [
    "AppliedReport",
    "Decision",
    "ProbeReport",
    "Report",
    "Verdict",
    "decisions",
    "gradient_deviation",
    "gradient_norms",
    "pairwise_cosines",
    "probe",
    "report",
    "subspace_overlap",
]
