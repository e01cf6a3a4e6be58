"""What GEM and A-GEM share: one objective is learnt, the others are its memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from eagc_jax._checks import check_index
from eagc_jax.aggregators._unit_rows import live_rows
from eagc_jax.aggregators._weighting import Problem
from eagc_jax.typing import PyTree


def reads_current(
    number: int, default: int
) -> Callable[[Mapping[str, PyTree]], dict[str, jax.Array]]:
    """For ``update(..., current=)``: the index, or the default, in the problem."""

    def read(extra_args: Mapping[str, PyTree]) -> dict[str, jax.Array]:
        index = extra_args.get("current")
        index = default if index is None else index
        check_index("current", index, number)
        return {"current": jnp.asarray(index)}

    return read


def split_roles(problem: Problem, current: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(K,)`` bool: the current objective; the memories that have a gradient."""
    is_current = jnp.arange(problem.active.shape[0]) == current
    return is_current, live_rows(problem.gram) & problem.active & ~is_current
