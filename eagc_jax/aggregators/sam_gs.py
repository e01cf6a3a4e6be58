"""SAM-GS: equalise gradients of different size, else weigh them by their momenta."""

from __future__ import annotations

from typing import Literal, NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    DECAY,
    POSITIVE,
    SHARE,
    check_choice,
    check_num_objectives,
    check_number,
)
from eagc_jax._trees import counted, increment, ratio, select, wide_zeros
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.objectives import expand_to
from eagc_jax.typing import OptState, Params, PyTree, Updates

Scale = Literal["published", "norm"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class SamGsState(NamedTuple):
    """Momenta, and how unlike the norms have been."""

    momenta: Updates  # leaves (K, *shape), float32: running means of the gradients.
    visits: jax.Array  # shape=(K,), int32: steps in which the objective took part.
    spread: jax.Array  # shape=(), float32: running mean of (1 - similarity)^2.
    count: jax.Array  # shape=(), int32: steps in it.
    similarity: jax.Array  # shape=(), float32: of the last step's norms, in [0, 1].


@_direct.shows_options
def sam_gs(
    num_objectives: int,
    *,
    gamma: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.99,
    scale: Scale = "published",
    max_norm: float | None = 1.0,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Similarity-aware momentum gradient surgery.

    With the norms :math:`n_k`, their mean similarity over pairs
    :math:`\bar S=\mathrm{mean}_{i<j}\,2n_in_j/(n_i^2+n_j^2)` in [0, 1], and

    .. math::
      M_k &\leftarrow \beta_1M_k+(1-\beta_1)g_k, \qquad
      v \leftarrow \beta_2v+(1-\beta_2)(1-\bar S)^2+10^{-8} \\
      d &= \begin{cases}
        \bar n\sum_k g_k/n_k & \bar S<\gamma \\
        \sum_k g_k\odot|\hat M_k|/\sqrt{\hat v} & \text{otherwise}
      \end{cases}

    (hats: less the bias). The 1e-8 has no unit. With two zero gradients S is 1, with one
    0. ``scale="published"`` multiplies by K and clips the norm at ``max_norm``, without
    which it can't be used: the second branch is quadratic in the gradients, and some
    1000 times longer where norms are equal. ``scale="norm"`` gives d the norm of the
    plain sum instead: the same directions, of degree 1 at every scale. The branches meet
    in a jump.

    Each entry of each gradient keeps its sign. Guarantee: none against conflict. Length:
    "unit" as published, else "sum". Cost: a pass for the norms and elementwise ones:
    at least 3K + 1 read and K + 2 written, in copies of the parameters (made here: 5K + 2
    and K + 2). Memory: K copies of the parameters in float32.

    Args:
      num_objectives: K, a Python int.
      gamma: :math:`\gamma` in [0, 1]; 0.1 is the authors' default, 0.7 that of their
        experiments on images.
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      scale: "published" or "norm".
      max_norm: > 0, or None not to clip; of "published" alone.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; gradients are multiplied by the preference
        first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`, ``method`` a ``SamGsState``.

    Raises:
      ValueError: bad arguments (at once); complex leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import sam_gs
      >>> tx = sam_gs(2, gamma=0.9, scale="norm")
      >>> grads = {"w": jnp.array([[8.0, 0.0], [0.0, 1.0]])}  # of unlike norms
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> [round(float(x), 2) for x in update["w"]]
      [5.7, 5.7]

    References:
      Borsani et al., `Gradient Similarity Surgery in Multi-Task Deep Learning
      <https://arxiv.org/abs/2506.06130>`_, 2025, and the authors' code.
    """
    number = check_num_objectives(num_objectives)
    check_number("gamma", gamma, SHARE)
    check_number("b1", b1, DECAY)
    check_number("b2", b2, DECAY)
    check_choice("scale", scale, SCALES)
    if max_norm is not None:
        check_number("max_norm", max_norm, POSITIVE)

    def init(params: Params) -> SamGsState:
        zero, none = jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32)
        visits = jnp.zeros((number,), jnp.int32)
        return SamGsState(wide_zeros(params, number), visits, zero, none, zero)

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        _direct.check_real(step.updates, "sam_gs")
        norms = step.norms()
        state = _remember(step, norms, state, b1, b2)
        steps = jnp.maximum(state.visits, 1).astype(jnp.float32)
        correction = 1 / (1 - b1**steps)
        if scale == "norm":  # momenta over the longest gradient: d is of degree 1
            correction = ratio(correction, jnp.max(norms))
        else:
            steps = jnp.maximum(state.count, 1).astype(jnp.float32)
            spread = state.spread / (1 - b2**steps)
            correction = correction / jnp.sqrt(spread)
        mean = _arithmetic.masked_mean(norms, step.active)
        equal = ratio(jnp.broadcast_to(mean, norms.shape), norms)
        unlike = state.similarity < gamma

        def combine(leaf, momentum):
            found = []
            for k, row in enumerate(step.rows(leaf)):
                modulation = jnp.abs(momentum[k]) * correction[k].astype(momentum.dtype)
                same = equal[k].astype(row.dtype)
                found.append(row * jnp.where(unlike, same, modulation))
            return _arithmetic.total(found)

        d = jax.tree.map(combine, step.updates, state.momenta)
        length = _length(d, step, scale, max_norm)
        return jax.tree.map(lambda x: x * length.astype(x.dtype), d), state

    convention = "sum" if scale == "norm" else "unit"
    method = _direct.Method("sam_gs", convention, init, apply, weighs=False, keeps=True)
    return _direct.from_method(num_objectives, method, **options)


def norm_similarity(norms: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """The mean over pairs of ``2 n_i n_j / (n_i^2 + n_j^2)``; 1 without a pair.

    Args:
      norms: ``(K,)``.
      active: ``(K,)`` bool, or None for all.

    Returns:
      A scalar in [0, 1].
    """
    if active is None:
        active = jnp.ones(norms.shape, bool)
    low = jnp.minimum(norms[:, None], norms[None, :])
    high = jnp.maximum(norms[:, None], norms[None, :])
    r = ratio(low, high, 1.0)  # of the smaller to the larger: squares are safe
    similarity = 2 * r / (1 + r**2)
    pairs = active[:, None] & active[None, :] & ~jnp.eye(norms.shape[0], dtype=bool)
    found = _arithmetic.masked_mean(similarity.ravel(), pairs.ravel())
    return jnp.where(jnp.any(pairs), found, 1.0)


def _remember(
    step: _direct.Step,
    norms: jax.Array,
    state: SamGsState,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
) -> SamGsState:
    """The state with this step in it, where it advances."""
    similarity = norm_similarity(norms, step.active)
    spread = b2 * state.spread + (1 - b2) * (1 - similarity) ** 2 + 1e-8
    moves = step.active & step.advance

    def move(momentum, leaf):
        moved = b1 * momentum + (1 - b1) * step.masked(leaf)
        return jnp.where(expand_to(moves, moved.ndim), moved, momentum)

    count, similarity, spread = select(
        step.advance,
        (increment(state.count), similarity, spread),
        (state.count, state.similarity, state.spread),
    )
    return SamGsState(
        momenta=jax.tree.map(move, state.momenta, step.updates),
        visits=counted(state.visits, moves),
        spread=spread,
        count=count,
        similarity=similarity,
    )


def _length(
    d: PyTree, step: _direct.Step, scale: Scale, max_norm: jax.typing.ArrayLike | None
) -> jax.Array:
    """What d is multiplied by."""
    if scale == "norm":
        plain = step.weighted(jnp.ones(step.active.shape, jnp.float32))
        target = _arithmetic.tree_norm(plain, step.names)
        return ratio(target, _arithmetic.tree_norm(d, step.names))
    number = jnp.sum(step.active, dtype=jnp.int32).astype(jnp.float32)
    if max_norm is None:
        return number
    norm = _arithmetic.tree_norm(d, step.names)
    number, max_norm = number.astype(norm.dtype), jnp.asarray(max_norm, norm.dtype)
    norm = number * norm
    clipped = number * ratio(max_norm, norm)
    return jnp.where(norm > max_norm, clipped, number)
