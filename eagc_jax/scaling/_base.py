"""What the scalings of one gradient share: checks, moments, the non-finite policy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._shards import max_leaves
from eagc_jax.objectives import check_same_names, compute_dtype, concrete, named_leaves

NONFINITE_POLICIES = ("propagate", "skip_update")


def check_policy(nonfinite: str) -> None:
    """Raises ValueError unless the policy makes sense for a single gradient."""
    if nonfinite not in NONFINITE_POLICIES:
        raise ValueError(
            f"nonfinite must be one of {NONFINITE_POLICIES}, got {nonfinite!r}."
        )


def check_in(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError where a known number is outside ``[low, high)``."""
    known = concrete(value)
    if known is not None and not np.all((known >= low) & (known < high)):
        raise ValueError(f"{name} must be in [{low}, {high}), got {value!r}.")


def check_updates(updates: Any, params: Any = None) -> None:
    """Raises ValueError on integer leaves and on shapes other than the parameters'."""
    leaves = named_leaves(updates)
    for name, leaf in leaves.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"leaf '{name}' has dtype {jnp.result_type(leaf)}; this scaling needs "
                "real floating point gradients. Partition other parameters out before."
            )
    if params is None:
        return
    known = named_leaves(params)
    check_same_names(leaves, known, "updates", "params")
    for name, leaf in leaves.items():
        if np.shape(leaf) != np.shape(known[name]):
            raise ValueError(
                f"leaf '{name}' has shape {np.shape(leaf)}, its parameter "
                f"{np.shape(known[name])}. Reduce per-objective updates, (K, *shape), "
                "with an aggregator or sum_objectives first."
            )


def wide(leaf: jax.Array) -> jax.Array:
    """The leaf in the dtype that sums are made in: float32, or wider as it is."""
    return leaf.astype(compute_dtype(leaf.dtype))


def wide_zeros(params: Any) -> Any:
    """Zeros like the parameters, in float32 or wider."""
    return jax.tree.map(lambda p: wide(jnp.zeros_like(p)), params)


def all_finite(tree: Any, names: tuple[str, ...] = ()) -> jax.Array:
    """Whether no entry is NaN or infinite: a bool scalar.

    Args:
      tree: of arrays.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.ones([], bool)
    bad = [jnp.any(~jnp.isfinite(leaf)).astype(jnp.int32) for leaf in leaves]
    return max_leaves(bad, leaves, names) == 0


def emit(step: Any, updates: Any, finite: jax.Array, nonfinite: str) -> Any:
    """The step in the gradients' dtypes; NaN or 0 throughout where it isn't finite."""
    fill = jnp.nan if nonfinite == "propagate" else 0.0
    return jax.tree.map(
        lambda s, g: jnp.where(finite, s, fill).astype(g.dtype), step, updates
    )


def select(advance: jax.Array, new: Any, old: Any) -> Any:
    """The new state where it may change, the old one elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(advance, n, o), new, old)


def increment(count: jax.Array) -> jax.Array:
    """The next step's number; stays at the largest int32."""
    return jnp.asarray(optax.safe_increment(count))


def average(mean: Any, values: Any, decay: Any) -> Any:
    """``decay * mean + (1 - decay) * values``, leaf by leaf."""
    return jax.tree.map(lambda m, v: decay * m + (1 - decay) * v, mean, values)


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """``numerator / denominator``, and 0 where the denominator is 0."""
    safe = jnp.where(denominator > 0, denominator, 1.0)
    return jnp.where(denominator > 0, numerator / safe, 0.0)


def debiased(mean: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    """An average that started at 0, less its bias. ``count`` is at least 1."""
    return mean / (1 - decay ** count.astype(mean.dtype)).astype(mean.dtype)
