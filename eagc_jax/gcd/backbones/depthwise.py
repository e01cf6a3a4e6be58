"""Depthwise convolution, in the form that is fast where it runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def depthwise(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel with a kernel of its own, padded to ceil(size / stride).

    On CPU it is a sum of shifted products, which XLA compiles to one loop over the
    channels, about five times as fast as its grouped convolution there; elsewhere
    the grouped convolution. Both have the same derivative.

    Args:
      inputs: (N, H, W, C).
      kernel: (k, k, 1, C).
      stride: of both axes.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), C).

    Examples:
      >>> images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
      >>> depthwise(images, kernel, 2)[0, :, :, 0].tolist()
      [[9.0, 6.0], [6.0, 4.0]]
    """
    return lax.platform_dependent(
        inputs,
        kernel,
        cpu=lambda inputs, kernel: _shifted(inputs, kernel, stride),
        default=lambda inputs, kernel: _grouped(inputs, kernel, stride),
    )


def padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Before and after an axis: what is odd goes after, as in TensorFlow."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _grouped(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )


def _shifted(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    sizes, window = inputs.shape[1:3], kernel.shape[0]
    pads = [padding(size, window, stride) for size in sizes]
    padded = jnp.pad(inputs, [(0, 0), *pads, (0, 0)])
    spans = [(-(-size // stride) - 1) * stride + 1 for size in sizes]
    total = None
    for row in range(window):
        for column in range(window):
            part = padded[
                :,
                row : row + spans[0] : stride,
                column : column + spans[1] : stride,
            ]
            product = part * kernel[row, column, 0]
            total = product if total is None else total + product
    assert total is not None
    return total
