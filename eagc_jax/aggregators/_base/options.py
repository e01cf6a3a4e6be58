"""The options that every aggregator built on a weighting takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict, get_args

import jax

from eagc_jax._checks import (
    DECAY,
    NONFINITE_POLICIES,
    Nonfinite,
    check_choice,
    check_count,
    check_number,
)
from eagc_jax._shards import AxisName
from eagc_jax.aggregators._weighting import CONVENTIONS, Weighting
from eagc_jax.blocks import Granularity
from eagc_jax.gram import check_gram_granularity

Rescale = Literal["native", "sum", "mean", "norm_of_mean"]
RESCALES: tuple[Rescale, ...] = get_args(Rescale)


class GramOptions(TypedDict, total=False):
    """The options that every aggregator built on a weighting takes."""

    preference: Sequence[float] | jax.typing.ArrayLike | None
    rescale: Rescale
    granularity: Granularity
    weight_smoothing: float
    gram_smoothing: float
    recompute_every: int
    nonfinite: Nonfinite
    certify: bool
    seed: int
    axis_name: AxisName


class Options(NamedTuple):
    """What ``from_weighting`` was given."""

    number: int
    preference: jax.Array
    rescale: Rescale
    granularity: Granularity
    weight_smoothing: jax.typing.ArrayLike
    gram_smoothing: jax.typing.ArrayLike
    recompute_every: int
    nonfinite: Nonfinite
    certify: bool
    seed: jax.typing.ArrayLike
    names: tuple[str, ...]  # mesh axes over which shard_map may have split leaves.


def check_options(options: Options, weighting: Weighting) -> None:
    """Raises ValueError for an option that makes no sense."""
    check_gram_granularity(options.granularity)
    check_choice("a weighting's convention", weighting.convention, CONVENTIONS)
    check_choice("rescale", options.rescale, RESCALES)
    check_choice("nonfinite", options.nonfinite, NONFINITE_POLICIES)
    check_number("weight_smoothing", options.weight_smoothing, DECAY)
    check_number("gram_smoothing", options.gram_smoothing, DECAY)
    check_count(
        "recompute_every",
        options.recompute_every,
        1,
        " Under optax.inject_hyperparams, name it in static_args.",
    )
    if not isinstance(options.certify, bool):
        raise ValueError(f"certify must be True or False, got {options.certify!r}.")
