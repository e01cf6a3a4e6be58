r"""Lion's metric: its step is the sign of a blend of momentum and gradient.

A sign is the steepest step in the largest norm, which no inner product gives: there is
no preconditioner that is Lion's. But :math:`\operatorname{sign}(x) = x / |x|`: at the
step itself it is the diagonal :math:`1 / |x|`, which is taken here. The blend's ``b1``
isn't in Lion's state, so x is the running mean after the step, of ``b2``. The metric is
the expected direction's own, and approximate; ``certify`` is exact all the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax._trees import widened
from eagc_jax.gram import divided
from eagc_jax.optimizers.diagonal import DiagonalGain


def of_probe(
    gradient: jax.Array, alone: jax.Array, mean: jax.Array, least: jax.Array
) -> DiagonalGain:
    """From the step of a gradient alone, and the running mean after the step."""
    size = jnp.maximum(jnp.abs(widened(mean)), least)
    factor = divided(alone * jnp.sign(gradient), size)
    return DiagonalGain(factor, jnp.abs(factor), None)
