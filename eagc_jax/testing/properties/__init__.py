r"""The properties of aggregators, each with its definition and its source.

An aggregator A maps the matrix J of K gradients :math:`g_1, \dots, g_K`, one a row, to a
direction :math:`d = A(J)`, which an optimizer subtracts; :math:`n_k = \|g_k\|`. Errors
are relative to the *size* of an update, the length of what it is a sum of:
:math:`\sum_k |w_k| n_k` where the weights are known (a weighting), else the longer of
:math:`A(J)` and :math:`A(|J|)`, whose rows have the same lengths and do not cancel.
Gradients may cancel, and rounding does not.

Each check takes the aggregation and one matrix, and returns what breaks the property, or
None.
"""

from eagc_jax.testing.properties import (
    composition,
    conflict,
    limits,
    stopping,
    symmetry,
)
from eagc_jax.testing.properties._base import (
    PROPERTIES,
    AggregatorProperty,
    Kind,
    Property,
)

__all__ = [
    "PROPERTIES",
    "AggregatorProperty",
    "Kind",
    "Property",
    "composition",
    "conflict",
    "limits",
    "stopping",
    "symmetry",
]
