"""How far to trust an answer: known classes are hidden and found again."""

from eagc_jax.gcd.evaluation.rehearsal.candidates import (
    FIRST,
    TRAINED,
    Candidate,
    coordinated,
    first,
    trained,
    with_neighbours,
)
from eagc_jax.gcd.evaluation.rehearsal.rehearsing import REHEARSALS, rehearse
from eagc_jax.gcd.evaluation.rehearsal.result import (
    Interval,
    Rated,
    Rehearsal,
    Trial,
    read_rehearsal,
)

__all__ = [
    "FIRST",
    "REHEARSALS",
    "TRAINED",
    "Candidate",
    "Interval",
    "Rated",
    "Rehearsal",
    "Trial",
    "coordinated",
    "first",
    "read_rehearsal",
    "rehearse",
    "trained",
    "with_neighbours",
]
