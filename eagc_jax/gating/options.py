"""What a gate is asked for, and whether that makes sense."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec

from eagc_jax._checks import DECAY, SHARE, Interval, check_number, concrete

# Infinity is a value: an infinite temperature gives the plain sum.
_FROM_ZERO = Interval(0, math.inf)
_ABOVE_ZERO = Interval(0, math.inf, with_low=False)


class Options(NamedTuple):
    """What ``soft_gate`` was given."""

    weights: jax.Array
    floor: jax.typing.ArrayLike
    smoothing: jax.typing.ArrayLike
    hysteresis: jax.typing.ArrayLike
    slew: float | jax.Array | None
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: dict[str, PartitionSpec] | None = None


def is_memoryless(options: Options) -> bool:
    """Whether nothing of a step is known to matter in the next."""
    smoothing, hysteresis = concrete(options.smoothing), concrete(options.hysteresis)
    return smoothing == 0 and hysteresis == 0 and options.slew is None


def check_options(
    options: Options,
    temperature: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike],
    warmup_steps: jax.typing.ArrayLike,
    descent_guard: jax.typing.ArrayLike | None,
) -> None:
    """Raises ValueError for an option that makes no sense."""
    check_number("temperature", temperature, _ABOVE_ZERO, ", or a schedule")
    check_number("floor", options.floor, SHARE)
    check_number("smoothing", options.smoothing, DECAY)
    check_number("hysteresis", options.hysteresis, _FROM_ZERO, " (logits)")
    check_number("slew", options.slew, _ABOVE_ZERO, " (logits a step), or None")
    check_number("warmup_steps", warmup_steps, _FROM_ZERO, " (steps)")
    check_number("descent_guard", descent_guard, SHARE)
