"""Which images make up a batch."""

import jax
import jax.numpy as jnp


def sample_indices(
    key: jax.Array, labeled_mask: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Draws image numbers with replacement, about half of them labeled.

    A labeled image weighs 1, an unlabeled one |labeled| / |unlabeled|, as SimGCD's
    sampler has it. Without labeled images (or without unlabeled ones) the draw is
    uniform.

    Args:
      key: a JAX random key.
      labeled_mask: (N,) booleans.
      shape: of the result, e.g. (steps, batch).

    Returns:
      int32 indices in [0, N).

    Examples:
      >>> mask = jnp.arange(10) < 2
      >>> drawn = sample_indices(jax.random.key(0), mask, (1000,))
      >>> print(f"{jnp.mean(drawn < 2):.1f}")
      0.5
    """
    labeled = labeled_mask.sum()
    share = labeled / jnp.maximum(labeled_mask.size - labeled, 1)
    weights = jnp.where(labeled_mask, 1.0, jnp.where(labeled > 0, share, 1.0))
    # A draw of the cumulative weight; `minimum` because it may round up to the total.
    cumulative = jnp.cumsum(weights)
    drawn = jax.random.uniform(key, shape) * cumulative[-1]
    found = jnp.searchsorted(cumulative, drawn, side="right")
    return jnp.minimum(found, labeled_mask.size - 1).astype(jnp.int32)
