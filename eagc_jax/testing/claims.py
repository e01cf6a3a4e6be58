"""Which aggregator has which property, as data: one row a method.

The rows are what this library asserts of its own methods, with their default options and
equal losses, for the first update from a fresh state. ``docs/testing.md`` shows them as a
table; a property without a mark may hold for some gradients, and is not promised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from eagc_jax.testing.properties import PROPERTIES, AggregatorProperty

Names = frozenset[AggregatorProperty]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What one method promises."""

    properties: Names
    tolerances: Mapping[AggregatorProperty, float] = dataclasses.field(
        default_factory=dict
    )
    note: str = ""


def _names(*names: AggregatorProperty) -> Names:
    return frozenset(names)


# Of every aggregator: nothing of nothing, finite of finite, and no NaN hidden.
SAFE: Names = _names("zero_at_zero", "finite_on_hostile_input", "propagates_nonfinite")
# A weighted sum with weights >= 0, not all 0, that shrinks and grows with the gradients.
POSITIVE: Names = SAFE | _names(
    "weighted_sum",
    "nonnegative_weights",
    "follows_agreement",
    "moves_unless_stationary",
    "scale_invariant",
    "homogeneous",
)
# What the Gram matrix alone decides, in no order.
SYMMETRIC: Names = _names("permutation_equivariant", "rotation_equivariant")
ONE: Names = _names("sum_for_one_objective")
# Projections on the cone without conflict, and what comes to the same.
NO_CONFLICT: Names = _names("non_conflicting", "descends", "stationary_at_pareto")
# Weights that don't depend on the gradients.
FIXED: Names = POSITIVE | SYMMETRIC | _names("descends", "linear_under_scaling")

CLAIMS: dict[str, Claim] = {
    "mean": Claim(FIXED | ONE),
    "upgrad": Claim(
        POSITIVE | SYMMETRIC | ONE | NO_CONFLICT | _names("linear_under_scaling")
    ),
    "dualproj": Claim(POSITIVE | SYMMETRIC | ONE | NO_CONFLICT),
    "mgda": Claim(POSITIVE | SYMMETRIC | ONE | NO_CONFLICT),
    "conflict_free": Claim(
        SAFE
        | SYMMETRIC
        | ONE
        | NO_CONFLICT
        | _names(
            "weighted_sum",
            "follows_agreement",
            "scale_invariant",
            "homogeneous",
            "rescaling_invariant",
            "linear_under_scaling",
        ),
        note="weights may be negative; 0 where no equal angle exists",
    ),
    "nash_mtl": Claim(
        POSITIVE | SYMMETRIC | ONE | NO_CONFLICT | _names("rescaling_invariant"),
        note="the length is the mean's",
    ),
    "fairgrad": Claim(
        POSITIVE | SYMMETRIC | ONE | NO_CONFLICT | _names("rescaling_invariant"),
        note="alpha = 1; the length is the mean's",
    ),
    "elastic_cone": Claim(
        POSITIVE | SYMMETRIC | ONE | NO_CONFLICT,
        note="of running energies; sums; balance=1 ignores units",
    ),
    "imtl_g": Claim(
        SAFE
        | SYMMETRIC
        | ONE
        | _names("weighted_sum", "follows_agreement", "scale_invariant", "homogeneous"),
        note="weights may be negative",
    ),
    "pcgrad": Claim(
        POSITIVE | ONE | _names("rotation_equivariant", "linear_under_scaling"),
        note="in a drawn order; sums",
    ),
    "gradvac": Claim(
        POSITIVE | ONE | _names("rotation_equivariant", "linear_under_scaling"),
        note="in a drawn order; sums",
    ),
    "cagrad": Claim(
        POSITIVE | SYMMETRIC | _names("descends"), note="K = 1 gives (1 + c) g, c = 0.4"
    ),
    "aligned_mtl": Claim(
        SAFE
        | ONE
        | _names(
            "descends",
            "weighted_sum",
            "follows_agreement",
            "scale_invariant",
            "homogeneous",
        ),
        note="weights may be negative; order and basis decide where an eigenvalue is cut",
    ),
    "sdmgrad": Claim(
        POSITIVE | SYMMETRIC | ONE,
        # Twenty steps, relative to an update that is shorter than its parts.
        {"permutation_equivariant": 2e-4, "rotation_equivariant": 2e-3},
    ),
    "modo": Claim(POSITIVE | SYMMETRIC | ONE),
    "random_weighting": Claim(
        POSITIVE | ONE | _names("rotation_equivariant", "linear_under_scaling"),
        note="of weights drawn for the step",
    ),
    "gem": Claim(
        POSITIVE
        | ONE
        | NO_CONFLICT
        | _names("rotation_equivariant", "rescaling_invariant", "linear_under_scaling"),
        note="one objective leads",
    ),
    "a_gem": Claim(
        POSITIVE | ONE | _names("rotation_equivariant"), note="one objective leads"
    ),
    "pcd": Claim(
        POSITIVE
        | ONE
        | _names("rotation_equivariant", "rescaling_invariant", "linear_under_scaling"),
        # Two that oppose leave a share tau = 0.02, stretched to the whole length.
        {"linear_under_scaling": 2e-3, "rescaling_invariant": 2e-3},
        note="one objective leads; no conflict with the others where it is feasible",
    ),
    "graddrop": Claim(
        SAFE
        | ONE
        | _names(
            "permutation_equivariant",
            "follows_agreement",
            "scale_invariant",
            "homogeneous",
        ),
        note="entry by entry; one drawn sign",
    ),
    "trimmed_mean": Claim(
        SAFE
        | ONE
        | _names(
            "permutation_equivariant",
            "follows_agreement",
            "scale_invariant",
            "homogeneous",
        ),
        note="entry by entry; for workers, not objectives",
    ),
    "krum": Claim(
        POSITIVE | ONE | _names("rotation_equivariant"),
        note="for workers, not objectives",
    ),
    "gcond": Claim(
        POSITIVE | ONE | _names("rotation_equivariant"),
        note="ties of conflicts go to the first; sums",
    ),
    "sam_gs": Claim(SAFE, note="quadratic in the gradients, as published"),
    "moco": Claim(POSITIVE | SYMMETRIC, note="of averages; half at the first step"),
    "famo": Claim(FIXED | ONE, note="of the losses"),
    "gradnorm": Claim(FIXED | ONE, note="of the losses and norms, after a step"),
    "dwa": Claim(FIXED | ONE, note="of the losses; sums"),
    "uncertainty_weighting": Claim(FIXED, note="of the losses; half at first"),
    "imtl_l": Claim(FIXED | ONE, note="of the losses; sums"),
    "chebyshev": Claim(FIXED | ONE, note="of the losses"),
    "smooth_chebyshev": Claim(FIXED | ONE, note="of the losses"),
    "gls": Claim(FIXED | ONE, note="of the losses"),
    "cosmos": Claim(FIXED | ONE, note="of the losses"),
    "db_mtl": Claim(
        SAFE | SYMMETRIC | _names("scale_invariant", "homogeneous", "weighted_sum"),
        note="of averages of log-losses; as long as the longest",
    ),
    "excess_mtl": Claim(
        SAFE | _names("weighted_sum", "nonnegative_weights", "permutation_equivariant"),
        note="of estimates that each step adds to; sums",
    ),
    "pmtl": Claim(
        POSITIVE | SYMMETRIC | ONE | NO_CONFLICT,
        note="in the middle of its part; elsewhere weights may be negative",
    ),
    "epo": Claim(
        SAFE
        | _names(
            "weighted_sum", "nonnegative_weights", "rotation_equivariant", "descends"
        ),
        note="on its ray; elsewhere towards it",
    ),
}


def claims_table() -> str:
    """The rows in Markdown, with a column for each property that methods differ in.

    Examples:
      >>> from eagc_jax import testing
      >>> testing.claims_table().splitlines()[2].startswith("| `mean` |")
      True
    """
    claimed = [claim.properties for claim in CLAIMS.values()]
    differing = frozenset.union(*claimed) - frozenset.intersection(*claimed)
    names = [name for name in PROPERTIES if name in differing]
    head = ["method", *(name.replace("_", " ") for name in names), "note"]
    rows = [head, ["---"] * len(head)]
    for method, claim in CLAIMS.items():
        marks = ["yes" if name in claim.properties else "" for name in names]
        rows.append([f"`{method}`", *marks, claim.note])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
