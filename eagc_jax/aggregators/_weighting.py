"""What a method is: a function from a :class:`Problem` to weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_preference
from eagc_jax.gram import Gram, split_gram
from eagc_jax.solvers.nnqp import SolveInfo, no_solve
from eagc_jax.typing import OptState, PyTree

Convention = Literal["sum", "mean", "convex", "unit"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


class Problem(NamedTuple):
    """What a weighting sees of one block, in one step."""

    gram: Gram  # cosines (K, K), norms (K,) relative to the largest, scale ().
    preference: jax.Array  # shape=(K,), float: >= 0, sums to 1 over the active.
    active: jax.Array  # shape=(K,), bool: who takes part; the others' weights go to 0.
    # A PRNG key of this step and block, for random methods.
    key: jax.Array | None = None
    # shape=(K,): the losses (``value=``), where ``needs_values``.
    values: jax.Array | None = None
    # The next two where the weighting's ``reads`` finds them.
    cross_gram: jax.Array | None = None  # shape=(K, K): of two further batches.
    current: jax.Array | None = None  # shape=(), int: the objective that is learnt.


# From the further keyword arguments of ``update`` to fields of the problem.
Reads = Callable[[Mapping[str, PyTree]], dict[str, jax.Array]]


def _nothing(extra_args: Mapping[str, PyTree]) -> dict[str, jax.Array]:
    del extra_args
    return {}


class Weighting(NamedTuple):
    """A method: its name, how its weights scale, and the function itself."""

    name: str
    # Which step its update has the length of: "sum" (of gradients), "mean", "convex"
    # (weights sum to 1), "unit" (a length that isn't the gradients').
    convention: Convention
    # (problem, state) -> (weights (K,), new state, SolveInfo).
    apply: Callable[[Problem, OptState], tuple[jax.Array, OptState, SolveInfo]]
    # K -> the method's own state for one block: a pytree of arrays, or ().
    init: Callable[[int], OptState] = lambda number: ()
    random: bool = False  # whether apply needs problem.key.
    needs_values: bool = False  # whether apply needs problem.values.
    # Whether apply looks at problem.gram; otherwise it isn't computed without need, and
    # what the problem holds then says only who takes part.
    needs_gram: bool = True
    reads: Reads = _nothing


def stateless(
    name: str,
    convention: Convention,
    solve: Callable[[Problem], jax.Array | tuple[jax.Array, SolveInfo]],
    *,
    random: bool = False,
    needs_values: bool = False,
    needs_gram: bool = True,
    reads: Reads = _nothing,
) -> Weighting:
    """A weighting from ``problem -> weights`` or ``problem -> (weights, SolveInfo)``."""

    def apply(
        problem: Problem, state: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        found = solve(problem)
        weights, info = found if isinstance(found, tuple) else (found, no_solve())
        return weights, state, info

    return Weighting(
        name,
        convention,
        apply,
        random=random,
        needs_values=needs_values,
        needs_gram=needs_gram,
        reads=reads,
    )


def problem_of(
    gram: jax.typing.ArrayLike,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
    values: jax.typing.ArrayLike | None = None,
) -> Problem:
    """The problem of a bare Gram matrix: where every pure weighting begins.

    Args:
      gram: ``(K, K)``.
      preference: K numbers >= 0, or None for equal ones.
      key: for random methods.
      values: losses ``(K,)``.

    Returns:
      The :class:`Problem`; every objective takes part.

    Raises:
      ValueError: shapes that don't fit, or a bad preference.
    """
    shape = np.shape(gram)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            f"gram must be (K, K), K >= 1, got shape {shape}. Use jax.vmap for a batch."
        )
    active = jnp.ones(shape[:1], bool)
    parts = split_gram(gram)
    u = check_preference(preference, shape[0]).astype(parts.norms.dtype)
    # What a method makes of a matrix that isn't finite must not look like weights.
    u = jnp.where(jnp.all(jnp.isfinite(parts.cosines)), u, jnp.nan)
    if values is not None:
        values = jnp.asarray(values, parts.norms.dtype)
    return Problem(parts, share(u, active), active, key, values)


def refuse_preference(name: str, options: Mapping[str, object]) -> None:
    """Raises ValueError where a preference is given to a method that has none."""
    if options.get("preference") is not None:
        raise ValueError(
            f"{name} has no preference: leave it None, or scale the losses themselves."
        )


def share(preference: jax.Array, active: jax.Array) -> jax.Array:
    """The preference among those that take part: sums to 1, or all 0."""
    kept = jnp.where(active, preference, 0.0)
    total = jnp.sum(kept)
    return kept / jnp.where(total > 0, total, 1.0)


def unscale(
    lengths: jax.Array, norms: jax.Array, otherwise: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """Weights of gradients from weights of unit gradients: ``lengths / norms``.

    Where a gradient is zero any weight gives the same update; ``otherwise`` is taken.
    """
    positive = norms > 0
    ratio = lengths / jnp.where(positive, norms, 1.0)
    # A NaN norm must reach the weights.
    return jnp.where(positive | jnp.isnan(norms), ratio, otherwise)
