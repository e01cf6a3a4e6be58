"""What all losses check and share: two stacked views, labels once per image."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean where `mask` holds; zero, and no gradient, where it holds nowhere."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(mask.sum(), 1)


def two_views(name: str, rows: ArrayLike) -> jax.Array:
    """Checks that rows are two views, and widens half precision to float32."""
    rows = jnp.asarray(rows)
    if rows.ndim != 2 or len(rows) == 0 or len(rows) % 2:
        raise ValueError(
            f"{name} must have shape (2B, features), two views of B >= 1 images "
            f"stacked along axis 0, got {rows.shape}"
        )
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {rows.dtype}")
    return rows.astype(jnp.promote_types(rows.dtype, jnp.float32))


def labels_of(
    rows: jax.Array, name: str, labels: ArrayLike, labeled_mask: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Checks the per-image arrays and repeats them for the two views."""
    labels, mask = jnp.asarray(labels), jnp.asarray(labeled_mask)
    expected = (len(rows) // 2,)
    for which, array in (("labels", labels), ("labeled_mask", mask)):
        if array.shape != expected:
            raise ValueError(
                f"{which} must have shape {expected}, one entry per image, because "
                f"{name} has {len(rows)} rows; got {array.shape}"
            )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"labeled_mask must be boolean, got {mask.dtype}")
    return jnp.tile(labels, 2), jnp.tile(mask, 2)


def positive(name: str, value: ArrayLike) -> ArrayLike:
    """Checks a number that is known at trace time."""
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
