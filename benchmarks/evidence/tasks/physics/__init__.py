"""Physics-informed networks: an equation's residual beside boundary and initial values.

The error is relative, L2, against a reference computed here; it is heavy-tailed over
seeds, so logarithms are compared.
"""

from benchmarks.evidence.tasks.physics import (
    allen_cahn,
    burgers,
    helmholtz,
    interface,
    inverse,
)

__all__ = ["allen_cahn", "burgers", "helmholtz", "interface", "inverse"]
