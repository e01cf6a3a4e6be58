"""What MoDo and SDMGrad share: two further batches, and steps on the simplex."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from eagc_jax.aggregators._base import GramOptions
from eagc_jax.aggregators._weighting import Problem, share
from eagc_jax.gram import cross_gram
from eagc_jax.solvers import project_simplex
from eagc_jax.typing import PyTree

# ---------------------------------------------------------------------------
# The matrix
# ---------------------------------------------------------------------------


def reads_batches(
    number: int, options: GramOptions
) -> Callable[[Mapping[str, PyTree]], dict[str, jax.Array]]:
    """For ``update(..., batches=(left, right))``: their cross-Gram in the problem."""
    granularity = options.get("granularity", "global")

    def read(extra_args: Mapping[str, PyTree]) -> dict[str, jax.Array]:
        batches = extra_args.get("batches")
        if batches is None:
            return {}
        if granularity != "global":
            raise ValueError(
                "batches= gives one matrix for the whole tree, so granularity must "
                f"be 'global', got {granularity!r}."
            )
        matrix = cross_gram(*batches, axis_name=options.get("axis_name"))
        if matrix.shape != (number, number):
            raise ValueError(
                f"batches must hold gradients of {number} objectives each, got "
                f"{matrix.shape}."
            )
        return {"cross_gram": matrix}

    return read


def cross_gram_of(problem: Problem) -> jax.Array | None:
    """That of the active objectives, 0 elsewhere; None without two batches."""
    if problem.cross_gram is None:
        return None
    active = problem.active[:, None] & problem.active[None, :]
    return jnp.where(active, problem.cross_gram.astype(problem.preference.dtype), 0)


def normalized(matrix: jax.Array) -> jax.Array:
    """Over the squared mean norm; over the largest entry where no norm is positive."""
    largest = jnp.max(jnp.abs(matrix))
    matrix = matrix / jnp.where(largest > 0, largest, 1)
    diagonal = jnp.maximum(jnp.diagonal(matrix), 0)
    squared = jnp.mean(jnp.sqrt(diagonal)) ** 2
    # The diagonal of a cross-Gram matrix may be negative: batches may disagree.
    return matrix / jnp.where(squared > 0, squared, 1)


# ---------------------------------------------------------------------------
# The steps
# ---------------------------------------------------------------------------


def even(number: int) -> jax.Array:
    """The middle of the simplex: ``(K,)`` float32."""
    return jnp.full((number,), 1 / number, jnp.float32)


def descend(
    point: jax.Array,
    gradient: Callable[[jax.Array], jax.Array],
    active: jax.Array,
    steps: int,
    eta: jax.typing.ArrayLike,
    mu: jax.typing.ArrayLike,
) -> jax.Array:
    """Projected momentum steps on the simplex of the active objectives."""

    def step(_, carry):
        point, velocity = carry
        velocity = mu * velocity + gradient(point)
        moved = jnp.where(active, point - eta * velocity, -jnp.inf)
        return jnp.where(active, project_simplex(moved), 0), velocity

    carry = (point, jnp.zeros_like(point))
    return jax.lax.fori_loop(0, steps, step, carry)[0]


def begin(problem: Problem, start: jax.Array) -> jax.Array:
    """Where to start from: on the simplex of the objectives that take part."""
    dtype = problem.preference.dtype
    kept = share(start.astype(dtype), problem.active)
    middle = share(jnp.ones_like(kept), problem.active)
    return jnp.where(jnp.sum(kept) > 0, kept, middle)


def keep_absent(point: jax.Array, start: jax.Array, problem: Problem) -> jax.Array:
    """The next start: absent objectives keep theirs, a matrix with NaN changes none."""
    take = problem.active & jnp.all(jnp.isfinite(point))
    return jnp.where(take, point.astype(start.dtype), start)
