"""What an assessment is asked for, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import jax
from jax.sharding import PartitionSpec

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONFINITE_POLICIES,
    NONNEGATIVE,
    POSITIVE,
    Interval,
    Nonfinite,
    check_choice,
    check_number,
)
from eagc_jax.blocks import Granularity

EnergyKind = Literal["magnitude", "progress", "exploratory", "sensitivity", "fisher"]
EnergyName = EnergyKind | Literal["snip"]
Energy = EnergyName | Mapping[str, float]  # a mapping is invariant in its keys: str
Scale = Literal["objective", "global"]

ENERGIES: tuple[EnergyKind, ...] = get_args(EnergyKind)
ALIGNMENTS: tuple[EnergyKind, ...] = ("progress", "exploratory")
SCALES: tuple[Scale, ...] = get_args(Scale)
_ALIASES: dict[str, EnergyKind] = {"snip": "sensitivity"}


class Options(NamedTuple):
    """What ``assess_energy`` was given."""

    mixture: dict[str, float]
    granularity: Granularity
    scale: Scale
    weights: jax.Array
    alignment_floor: jax.typing.ArrayLike
    eps: jax.typing.ArrayLike
    nonfinite: Nonfinite
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: dict[str, PartitionSpec] | None = None


def check_energy(energy: Energy) -> dict[str, float]:
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


def check_options(
    options: Options, direction_decay: float | None, moment_decay: float | None
) -> None:
    """Raises ValueError for an option that makes no sense."""
    blocks_lib.check_granularity(options.granularity)
    check_choice("scale", options.scale, SCALES)
    check_choice("nonfinite", options.nonfinite, NONFINITE_POLICIES)
    check_number("direction_decay", direction_decay, DECAY)
    check_number("moment_decay", moment_decay, DECAY)
    floors = Interval(0, 1, with_low=False)
    check_number("alignment_floor", options.alignment_floor, floors)
    check_number("eps", options.eps, POSITIVE)
