"""What an assessment is asked for, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONFINITE_POLICIES,
    NONNEGATIVE,
    POSITIVE,
    Interval,
    check_choice,
    check_number,
)
from eagc_jax.blocks import Granularity

ENERGIES = ("magnitude", "progress", "exploratory", "sensitivity", "fisher")
ALIGNMENTS = ("progress", "exploratory")
SCALES = ("objective", "global")
_ALIASES = {"snip": "sensitivity"}


class Options(NamedTuple):
    """What ``assess_energy`` was given."""

    mixture: dict[str, float]
    granularity: Granularity
    scale: str
    weights: jax.Array
    alignment_floor: Any
    eps: Any
    nonfinite: str
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: Any = None


def check_energy(energy: str | Mapping[str, float]) -> dict[str, float]:
    """Coefficients by kind of energy, from a name or a mapping; or ValueError."""
    mixture = {energy: 1.0} if isinstance(energy, str) else energy
    if not isinstance(mixture, Mapping) or not mixture:
        raise ValueError(
            f"energy must be one of {ENERGIES} or a mapping from these to coefficients, "
            f"got {energy!r}."
        )
    checked = {}
    for name, coefficient in mixture.items():
        kind = _ALIASES.get(name, name)
        if kind not in ENERGIES:
            raise ValueError(f"energy must be one of {ENERGIES}, got {name!r}.")
        check_number(f"the coefficient of energy {name!r}", coefficient, NONNEGATIVE)
        checked[kind] = checked.get(kind, 0.0) + coefficient
    return checked


def check_options(options: Options, direction_decay: Any, moment_decay: Any) -> None:
    """Raises ValueError for an option that makes no sense."""
    blocks_lib.check_granularity(options.granularity)
    check_choice("scale", options.scale, SCALES)
    check_choice("nonfinite", options.nonfinite, NONFINITE_POLICIES)
    check_number("direction_decay", direction_decay, DECAY)
    check_number("moment_decay", moment_decay, DECAY)
    floors = Interval(0, 1, with_low=False)
    check_number("alignment_floor", options.alignment_floor, floors)
    check_number("eps", options.eps, POSITIVE)
