"""What a gate is asked for, and whether that makes sense."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from eagc_jax._checks import DECAY, SHARE, Interval, check_number, concrete

# Infinity is a value: an infinite temperature gives the plain sum.
_FROM_ZERO = Interval(0, math.inf)
_ABOVE_ZERO = Interval(0, math.inf, with_low=False)


class Options(NamedTuple):
    """What ``soft_gate`` was given."""

    weights: jax.Array
    floor: Any
    smoothing: Any
    hysteresis: Any
    slew: Any
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: Any = None


def is_memoryless(options: Options) -> bool:
    """Whether nothing of a step is known to matter in the next."""
    smoothing, hysteresis = concrete(options.smoothing), concrete(options.hysteresis)
    return smoothing == 0 and hysteresis == 0 and options.slew is None


def check_options(
    options: Options, temperature: Any, warmup_steps: Any, descent_guard: Any
) -> None:
    """Raises ValueError for an option that makes no sense."""
    check_number("temperature", temperature, _ABOVE_ZERO, ", or a schedule")
    check_number("floor", options.floor, SHARE)
    check_number("smoothing", options.smoothing, DECAY)
    check_number("hysteresis", options.hysteresis, _FROM_ZERO, " (logits)")
    check_number("slew", options.slew, _ABOVE_ZERO, " (logits a step), or None")
    check_number("warmup_steps", warmup_steps, _FROM_ZERO, " (steps)")
    check_number("descent_guard", descent_guard, SHARE)
