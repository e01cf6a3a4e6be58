"""What a property is, the register of them, and errors relative to a size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias, cast, get_args

import numpy as np

from eagc_jax.testing._aggregation import Aggregation, Answer
from eagc_jax.testing.failures import Violation

AggregatorProperty: TypeAlias = Literal[
    "non_conflicting",
    "descends",
    "permutation_equivariant",
    "rotation_equivariant",
    "scale_invariant",
    "homogeneous",
    "normalized",
    "rescaling_invariant",
    "linear_under_scaling",
    "nonnegative_weights",
    "weighted_sum",
    "follows_agreement",
    "stationary_at_pareto",
    "moves_unless_stationary",
    "zero_at_zero",
    "sum_for_one_objective",
    "finite_on_hostile_input",
    "propagates_nonfinite",
]
# Which matrices a property is about; strategies and samplers of each are in drawing.py.
Kind: TypeAlias = Literal[
    "general",
    "stationary",
    "descendable",
    "equal",
    "zero",
    "one",
    "hostile",
    "nonfinite",
]
Check: TypeAlias = Callable[[Aggregation, np.ndarray, float], Violation | None]


@dataclasses.dataclass(frozen=True)
class Property:
    """A check, the matrices that it is about, and the tolerance it has by default."""

    check: Check
    kind: Kind
    tolerance: float

    @property
    def definition(self) -> str:
        """Its first paragraph."""
        return (self.check.__doc__ or "").split("\n\n")[0]


PROPERTIES: dict[AggregatorProperty, Property] = {}


def about(kind: Kind, tolerance: float = 0.0) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        name = check.__name__
        assert name in get_args(AggregatorProperty), name
        PROPERTIES[cast(AggregatorProperty, name)] = Property(check, kind, tolerance)
        return check

    return register


def off_by(found: float, tolerance: float, sentence: str) -> Violation | None:
    """A violation where the number is above the tolerance, or isn't a number."""
    if found <= tolerance:
        return None
    return Violation(f"{sentence} {found:.3g}", f"at most {tolerance:.3g}")


def relative(left: np.ndarray, right: np.ndarray, size: float) -> float:
    """``|left - right| / size``; 0 / 0 is 0."""
    difference = float(np.linalg.norm(left - right))
    return 0.0 if difference == 0 else difference / size if size > 0 else np.inf


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def is_short(answer: Answer) -> bool:
    """Whether a direction is so short that rounding decides where it points."""
    return float(np.linalg.norm(answer.direction)) <= 1e-3 * answer.size
