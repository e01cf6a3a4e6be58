"""Which axes of a parameter one block spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

GranularityName = Literal["global", "tensor", "channel", "element"]
# One of these, or (path, param shape) -> axes of the param
# that one block spans.
Granularity = GranularityName | Callable[[str, tuple[int, ...]], tuple[int, ...]]

GRANULARITIES: tuple[GranularityName, ...] = get_args(GranularityName)

GLOBAL = "global"  # the name of the only block at that granularity
POOL = "*"  # the name of the group of leaves with one block; no path is spelt so


def check_granularity(granularity: object) -> None:
    """Raises ValueError unless it is one of the four names or a function."""
    if not callable(granularity) and granularity not in GRANULARITIES:
        raise ValueError(
            f"granularity must be one of {GRANULARITIES}, or a function (path, shape) "
            f"-> axes that one block spans; got {granularity!r}."
        )


def block_axes(
    granularity: Granularity, name: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The axes of a parameter that one block spans.

    "channel" follows ``optax.adaptive_grad_clip``: a vector is one block; of a matrix
    (in, out) or a kernel (in, heads, dim) axis 0 is reduced, one block per output unit;
    of a convolution kernel all but the last axis, one block per filter.
    """
    rank = len(shape)
    if callable(granularity):
        axes = tuple(int(axis) for axis in granularity(name, shape))
        if not all(-rank <= axis < rank for axis in axes):
            raise ValueError(
                f"granularity gave the axes {axes} for leaf '{name}' of shape {shape}."
            )
        return tuple(sorted({axis % rank for axis in axes}))
    if granularity == "element":
        return ()
    if granularity != "channel" or rank <= 1:
        return tuple(range(rank))
    return (0,) if rank <= 3 else tuple(range(rank - 1))
