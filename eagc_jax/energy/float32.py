"""Values in float32 (complex64), whatever the leaves' dtype, and below infinity."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def as_float32(leaf: jax.Array) -> jax.Array:
    """The leaf in float32, or complex64."""
    complex_valued = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return leaf.astype(jnp.complex64 if complex_valued else jnp.float32)


def float32_zeros(leaf: jax.Array) -> jax.Array:
    """Zeros like a parameter in the dtype that averages are kept in."""
    complex_valued = jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)
    return jnp.zeros_like(leaf, dtype=jnp.complex64 if complex_valued else jnp.float32)


def square(leaf: jax.Array) -> jax.Array:
    """The squared modulus, real."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return leaf.real**2 + leaf.imag**2
    return leaf * leaf


def bounded(values: jax.Array) -> jax.Array:
    """Values kept below infinity: products of finite numbers can exceed float32."""
    return jnp.minimum(values, jnp.finfo(jnp.float32).max)
