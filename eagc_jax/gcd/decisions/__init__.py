"""What a person decides on the page, and how the next run obeys it exactly.

`read_decisions` reads the file; `apply` changes the records; then the next run clusters
and trains; `obey` corrects its answer where it contradicts a decision.
"""

from eagc_jax.gcd.decisions.applying import apply
from eagc_jax.gcd.decisions.assigning import least_clusters, obey
from eagc_jax.gcd.decisions.constraints import Constraints
from eagc_jax.gcd.decisions.kinds import Decision, Decisions, Round
from eagc_jax.gcd.decisions.naming import names_for
from eagc_jax.gcd.decisions.reading import read_decisions

__all__ = [
    "Constraints",
    "Decision",
    "Decisions",
    "Round",
    "apply",
    "least_clusters",
    "names_for",
    "obey",
    "read_decisions",
]
