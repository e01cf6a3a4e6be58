"""What a projection is asked for, and whether that makes sense."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
from jax.sharding import PartitionSpec

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import DECAY, NONNEGATIVE, check_choice, check_number
from eagc_jax.blocks import Granularity

DirectionEnergy = Literal["running", "current"] | None
_ENERGIES: tuple[DirectionEnergy, ...] = ("running", "current", None)


class Options(NamedTuple):
    """What ``elastic_projection`` was given."""

    supervised: int
    eep_weight: jax.typing.ArrayLike
    max_projection: jax.typing.ArrayLike | None
    only_conflict: bool
    energy: DirectionEnergy
    direction_decay: jax.typing.ArrayLike | None
    reference_decay: jax.typing.ArrayLike | None
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: dict[str, PartitionSpec] | None = None


def check_options(options: Options, granularity: Granularity) -> None:
    """Raises ValueError for an option that makes no sense."""
    blocks_lib.check_granularity(granularity)
    if granularity == "element":
        raise ValueError(
            "granularity 'element' gives blocks of one entry, which have no direction to "
            "project along; use 'global', 'tensor' or 'channel'."
        )
    check_choice("energy", options.energy, _ENERGIES)
    check_number("eep_weight", options.eep_weight, NONNEGATIVE)
    check_number("max_projection", options.max_projection, NONNEGATIVE)
    check_number("direction_decay", options.direction_decay, DECAY)
    check_number("reference_decay", options.reference_decay, DECAY)
