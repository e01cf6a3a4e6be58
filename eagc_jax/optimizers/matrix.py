r"""Muon's metric, a matrix for every matrix of parameters.

Muon's step is the orthogonal factor of its momentum M,
:math:`(M M^\top)^{-1/2} M`: a preconditioner on the rows of M, or on its columns where
those are fewer. It is applied to the gradients as it will be after this step. Muon's own
five polynomials lift a singular value by a factor of at most about 500 over the norm of
M, and only roughly to 1; here it is the ideal that they approximate,
:math:`(M M^\top + \phi^2)^{-1/2}` with :math:`\phi = \|M\| / 500`. Nesterov's look-ahead
is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import widened
from eagc_jax.gram import LeafMetric

_LIFT = 500.0


class MatrixGain(NamedTuple):
    """Of one leaf, the step as ``sign R R (r + d)``, R on the left or the right."""

    root: jax.Array  # R, (m, m), symmetric.
    inverse: jax.Array  # of R.
    sign: jax.Array  # shape=(): -1 where the optimizer descends.
    rest: jax.Array | None  # R r, (*shape).

    def metric(self) -> LeafMetric:
        """Plain, in coordinates."""
        return LeafMetric(None, self.rest)

    def coordinates(self, leaf: jax.Array) -> jax.Array | None:
        """``R g_k`` of ``(K, *shape)``."""
        return jax.vmap(lambda row: _times(self.root, widened(row)))(leaf)

    def with_rest_of(self, step: jax.Array) -> MatrixGain:
        """With the gradient of which the optimizer would make this step as the rest."""
        return self._replace(rest=self.undone(step))

    def undone(self, step: jax.Array) -> jax.Array:
        """``R d``, where this is the step of the gradient d."""
        return self.sign * _times(self.inverse, widened(step))

    def step_of(self, gradient: jax.Array) -> jax.Array:
        """``sign R R d``."""
        return self.sign * _times(self.root, _times(self.root, widened(gradient)))


class Means(NamedTuple):
    """Muon's momentum after the step, of the gradient alone and as it is."""

    alone: jax.Array
    whole: jax.Array


def of_probe(
    name: str,
    gradient: jax.Array,
    step: jax.Array,
    means: Means,
    decay: jax.Array | None,
) -> MatrixGain:
    """From a probe.

    Args:
      name: of the leaf.
      gradient: ``(m, n)``, that was probed with.
      step: of it and the momentum, without weight decay.
      means: Muon's momentum.
      decay: the part of the step that is weight decay; None to leave out momentum, too.
    """
    if gradient.ndim != 2:
        raise ValueError(
            f"leaf '{name}' has shape {gradient.shape} and Muon's dimension numbers: "
            "optimizer_aware knows Muon's metric of matrices alone. Leave others to "
            "adam, as optax.contrib.muon does."
        )
    alone, whole = widened(means.alone), widened(means.whole)
    gradient, step = gradient.astype(whole.dtype), step.astype(whole.dtype)
    size = jnp.sqrt(jnp.sum(whole * whole))
    unit = whole / jnp.where(size > 0, size, 1)
    left = unit.shape[0] <= unit.shape[1]
    matrix = unit @ unit.T if left else unit.T @ unit
    values, vectors = jnp.linalg.eigh(matrix)
    powers = (jnp.maximum(values, 0) + _LIFT**-2) ** 0.25

    def of(diagonal):
        return (vectors * diagonal[None, :]) @ vectors.T

    orthogonal = _times(of(powers**-2), unit)
    along = jnp.sum(step * orthogonal) / jnp.maximum(jnp.sum(orthogonal**2), 1e-30)
    share = jnp.sum(alone * gradient) / jnp.maximum(jnp.sum(gradient**2), 1e-30)
    # step = along (P / size) (share d + what was there before)
    scale = jnp.sqrt(jnp.abs(along) * share / jnp.where(size > 0, size, 1))
    scale = jnp.where(scale > 0, scale, 1)
    gain = MatrixGain(of(1 / powers) * scale, of(powers) / scale, jnp.sign(along), None)
    if decay is None:
        return gain
    before = (whole - alone) / jnp.where(share > 0, share, 1)
    rest = _times(gain.root, before) + gain.undone(decay)
    return gain._replace(rest=rest)


def _times(matrix: jax.Array, leaf: jax.Array) -> jax.Array:
    """On whichever side it fits; the left one where both do."""
    return matrix @ leaf if matrix.shape[0] == leaf.shape[0] else leaf @ matrix
