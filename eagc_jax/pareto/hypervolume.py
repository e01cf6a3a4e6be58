"""How much of the space of losses a set of points dominates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._trees import compute_dtype


def hypervolume(
    losses: jax.typing.ArrayLike, reference: jax.typing.ArrayLike
) -> jax.Array:
    r"""The volume that P points dominate, up to a reference point; losses are minimised.

    .. math:: \mathrm{vol}\Big(\bigcup_p \{x : L_p \le x \le z\}\Big)

    Exact for any K: for K = 2 a sweep along the first loss; for more, slices along the
    last, each the hypervolume of K - 1 losses of the points below it. Work and memory
    are :math:`P\log P` for K = 2, :math:`P^2\log P` for 3, :math:`P^{K-1}\log P` in
    general: for more than a few hundred points at K = 4 use a sampling estimate.

    Args:
      losses: ``(P, K)``. Points that aren't below the reference in every loss, and points
        with a NaN, add nothing.
      reference: z, ``(K,)``: the same for all sets that are compared.

    Returns:
      shape=(), float32 or wider.

    Raises:
      ValueError: shapes that don't fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.pareto import hypervolume
      >>> float(hypervolume(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.array([3.0, 3.0])))
      5.0

    References:
      Zitzler and Thiele, "Multiobjective optimization using evolutionary algorithms: a
      comparative case study", 1998.
    """
    losses, reference = jnp.asarray(losses), jnp.asarray(reference)
    _check(losses, "losses")
    if np.shape(reference) != losses.shape[1:]:
        raise ValueError(
            f"reference must have one entry a loss, shape {losses.shape[1:]}; got "
            f"{np.shape(reference)}."
        )
    dtype = compute_dtype(losses.dtype)
    return _below(losses.astype(dtype), reference.astype(dtype))


def non_dominated(losses: jax.typing.ArrayLike) -> jax.Array:
    """Which of P points no other one dominates; losses are minimised.

    Point q dominates p where it is nowhere worse and somewhere better. Equal points don't
    dominate each other; a point with a NaN is out. Work: ``P^2 K``.

    Args:
      losses: ``(P, K)``.

    Returns:
      ``(P,)`` bool.

    Raises:
      ValueError: an array that isn't ``(P, K)``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.pareto import non_dominated
      >>> non_dominated(jnp.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
      [True, True, False]
    """
    losses = jnp.asarray(losses)
    _check(losses, "losses")
    return _unbeaten(losses)


# One program each, where they are called outside of jit.


@jax.jit
def _unbeaten(losses: jax.Array) -> jax.Array:
    left, right = losses[:, None], losses[None, :]
    beaten = jnp.all(right <= left, axis=2) & jnp.any(right < left, axis=2)
    return ~jnp.any(beaten, axis=1) & ~jnp.any(jnp.isnan(losses), axis=1)


@jax.jit
def _below(points: jax.Array, reference: jax.Array) -> jax.Array:
    counts = jnp.all(points < reference[None], axis=1)
    # At the reference a point dominates nothing.
    return _volume(jnp.where(counts[:, None], points, reference[None]), reference)


def _check(losses: jax.Array, name: str) -> None:
    if losses.ndim != 2 or not losses.size:
        raise ValueError(
            f"{name} must be P points of K losses, (P, K); got {losses.shape}."
        )


def _volume(points: jax.Array, reference: jax.Array) -> jax.Array:
    """Of points none of which is above the reference."""
    if points.shape[1] == 1:
        return reference[0] - jnp.min(points)
    points = points[jnp.argsort(points[:, -1])]
    last = jnp.concatenate([points[:, -1], reference[-1:]])
    thickness = jnp.diff(last)  # of the slice above each point, up to the next
    if points.shape[1] == 2:
        width = reference[0] - jax.lax.cummin(points[:, 0])
        return jnp.sum(thickness * width)
    index = jnp.arange(points.shape[0])

    def below(number: jax.Array) -> jax.Array:
        """The area of the points up to this one."""
        seen = (index <= number)[:, None]
        return _volume(
            jnp.where(seen, points[:, :-1], reference[None, :-1]), reference[:-1]
        )

    return jnp.sum(thickness * jax.vmap(below)(index))
