"""Per-layer scaling by how consistent successive gradients are."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    SINGLE_NONFINITE_POLICIES,
    Interval,
    SingleNonfinite,
    check_choice,
    check_gradient,
    check_number,
)
from eagc_jax._shards import all_finite
from eagc_jax._states import check_like
from eagc_jax._trees import (
    increment,
    named_leaves,
    ratio,
    wide_zeros,
    widened,
)
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity, Layout
from eagc_jax.scaling import _base
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


class ScaleByStabilityState(NamedTuple):
    """The reference that gradients are compared with, and every decision made."""

    reference: PyTree  # like params, float32: running mean of the gradients before.
    # By group of blocks, float32, shape=(1, blocks): what factors are computed from.
    memory: dict[str, jax.Array]
    visits: dict[str, jax.Array]  # by group, the same shape: cosines averaged so far.
    # The last step, to log. By leaf, shape=(1, *block), float32; blocks that had
    # nothing to compare show 0 and 1.
    cosines: ByLeaf
    factors: ByLeaf
    count: jax.Array  # shape=(), int32: finite steps.
    nonfinite_count: jax.Array  # shape=(), int32: steps with a NaN or an infinity.


def scale_by_stability(
    min_factor: float = 0.5,
    max_factor: float = 2.0,
    *,
    smoothing: float = 0.9,
    reference_decay: float = 0.0,
    granularity: Granularity = "tensor",
    nonfinite: SingleNonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each layer by the consistency of its successive gradients, within bounds.

    Per block :math:`b` (a tensor, unless ``granularity`` says otherwise),

    .. math::
      c_t &= \cos(g_t, M_{t-1}), \qquad M_t = \rho M_{t-1} + (1-\rho) g_t \\
      s_t &= \beta s_{t-1} + (1-\beta) c_t, \qquad \hat s_t = s_t/(1-\beta^t) \\
      f_t &= f_{\max}^{\max(\hat s_t, 0)}\, f_{\min}^{\max(-\hat s_t, 0)},
      \qquad d_t = f_t\,g_t .

    A block whose gradients keep pointing the same way (:math:`\hat s=1`) is multiplied
    by :math:`f_{\max}`, one whose gradients are unrelated by 1, one whose gradients
    flip each step (:math:`\hat s=-1`: the step is too long) by :math:`f_{\min}`. Only
    cosines enter: the factor is the same for every scale of the loss.

    Guarantee: :math:`f_{\min}\le f\le f_{\max}`, and the direction of every block is
    the gradient's. In front of Adam a factor on the gradient mostly cancels: put it
    behind. Cost: one reducing and one elementwise pass. Memory: one copy of the
    parameters in float32.

    Args:
      min_factor: :math:`f_{\min}` in (0, 1].
      max_factor: :math:`f_{\max}` >= 1.
      smoothing: :math:`\beta` in [0, 1), of the cosine.
      reference_decay: :math:`\rho` in [0, 1); 0 compares with the previous gradient
        alone, which minibatch noise makes small, 0.9 with about the last ten.
      granularity: "tensor", "global", "channel", "element", or a function
        ``(path, shape)`` to the axes that one block spans. With "element" the cosine is
        the agreement of signs.
      nonfinite: for a gradient with a NaN or an infinity, "propagate" (the update is NaN
        everywhere) or "skip_update" (it is 0). Nothing is remembered in either.

    Returns:
      A transformation of leaves ``(*shape)``; ``state.factors["path"]`` and
      ``state.cosines["path"]`` are the last step's. A block's first gradient, and a
      zero gradient, is left as it is.

    Raises:
      ValueError: bad arguments (at once); trees that differ (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import scaling
      >>> tx = scaling.scale_by_stability(0.5, 2.0)
      >>> params = {"steady": jnp.zeros(2), "flips": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> ones = jnp.ones(2)
      >>> _, state = tx.update({"steady": ones, "flips": ones}, state)
      >>> step, state = tx.update({"steady": ones, "flips": -ones}, state)
      >>> step["steady"].round(3), step["flips"].round(3)
      (Array([2., 2.], dtype=float32), Array([-0.5, -0.5], dtype=float32))

    References:
      The idea is that of Rprop (Riedmiller & Braun, 1993) and of the adaptive gain of
      `Almeida et al. <https://doi.org/10.1017/CBO9780511569920.007>`_, 1998, per layer
      and bounded; the formula is this package's own.
    """
    _check_factors(min_factor, max_factor)
    check_number("smoothing", smoothing, DECAY)
    check_number("reference_decay", reference_decay, DECAY)
    blocks_lib.check_granularity(granularity)
    check_choice("nonfinite", nonfinite, SINGLE_NONFINITE_POLICIES)

    def init_fn(params: Params) -> ScaleByStabilityState:
        layout = blocks_lib.layout_of_params(granularity, named_leaves(params))
        zeros = _groups_of_zeros(layout, named_leaves(params))
        ones = jax.tree.map(jnp.ones_like, zeros)
        number = jnp.zeros([], jnp.int32)
        return ScaleByStabilityState(
            reference=wide_zeros(params),
            memory=zeros,
            visits=zeros,
            cosines=layout.show(zeros),
            factors=layout.show(ones),
            count=number,
            nonfinite_count=number,
        )

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        check_gradient(updates, params)
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            return updates, state
        check_like(state, init_fn, updates)
        leaves = {name: leaf[None] for name, leaf in named_leaves(updates).items()}
        layout = blocks_lib.layout_of_updates(granularity, leaves)
        finite = all_finite(updates)
        grads = jax.tree.map(widened, updates)
        cosines, known = _cosines(layout, grads, state.reference)
        visits = {g: state.visits[g] + known[g].astype(jnp.float32) for g in known}
        memory = {
            g: jnp.where(
                known[g],
                smoothing * state.memory[g] + (1 - smoothing) * cosines[g],
                state.memory[g],
            )
            for g in known
        }
        factors = {
            g: _factor(memory[g], visits[g], smoothing, min_factor, max_factor)
            for g in known
        }
        # A block without a direction to compare in this step is not scaled in it.
        factors = {g: jnp.where(known[g], factors[g], 1.0) for g in known}
        new = ScaleByStabilityState(
            reference=_base.average(state.reference, grads, reference_decay),
            memory=memory,
            visits=visits,
            cosines=layout.show(cosines),
            factors=layout.show(factors),
            count=increment(state.count),
            nonfinite_count=state.nonfinite_count,
        )
        step = _scaled(layout, grads, factors)
        return _base.finished(step, updates, new, state, finite, nonfinite)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_factors(
    min_factor: jax.typing.ArrayLike, max_factor: jax.typing.ArrayLike
) -> None:
    check_number("min_factor", min_factor, Interval(0, 1, with_low=False))
    check_number("max_factor", max_factor, Interval(1, math.inf, with_high=False))


def _groups_of_zeros(
    layout: Layout, params: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    if layout.granularity == GLOBAL:
        return {GLOBAL: jnp.zeros((1, 1), jnp.float32)}
    return layout.zeros(params, 1)


def _cosines(
    layout: Layout, grads: Updates, reference: PyTree
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Cosines by group ``(1, blocks)``, and where there was something to compare."""
    left, right = named_leaves(grads), named_leaves(reference)
    left = {name: _unit_scaled(leaf) for name, leaf in _scales(layout, left).items()}
    right = {name: _unit_scaled(leaf) for name, leaf in _scales(layout, right).items()}
    inner = _means(layout, {n: left[n] * right[n] for n in left})
    first = _means(layout, {n: left[n] ** 2 for n in left})
    second = _means(layout, {n: right[n] ** 2 for n in right})
    known = {g: (first[g] > 0) & (second[g] > 0) for g in inner}
    cosines = {
        g: ratio(inner[g], jnp.sqrt(first[g]) * jnp.sqrt(second[g])) for g in inner
    }
    return {g: jnp.clip(c, -1.0, 1.0) for g, c in cosines.items()}, known


def _scales(
    layout: Layout, leaves: dict[str, jax.Array]
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Leaves with the largest entry to divide them by: of the leaf, or of the tree."""
    tops = {n: jnp.max(jnp.abs(x), initial=0.0) for n, x in leaves.items()}
    if layout.granularity == GLOBAL:
        top = jnp.max(jnp.stack([t.astype(jnp.float32) for t in tops.values()]))
        tops = dict.fromkeys(tops, top)
    return {n: (x, tops[n].astype(x.dtype)) for n, x in leaves.items()}


def _unit_scaled(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """``(1, *shape)``, largest entry 1: squares neither underflow nor overflow."""
    leaf, top = pair
    return (leaf / jnp.where(top > 0, top, 1.0))[None]


def _means(layout: Layout, leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Block means by group, float32; of the whole tree at granularity "global"."""
    means = layout.block_means(leaves)
    if layout.granularity != GLOBAL:
        return means
    total = jnp.sum(
        layout.leaf_means(means) * layout.sizes()[None], axis=1, keepdims=True
    )
    return {GLOBAL: total}


def _factor(
    memory: jax.Array,
    visits: jax.Array,
    smoothing: jax.typing.ArrayLike,
    low: jax.typing.ArrayLike,
    high: jax.typing.ArrayLike,
) -> jax.Array:
    seen = jnp.maximum(visits, 1.0)
    consistency = jnp.clip(memory / (1 - smoothing**seen), -1.0, 1.0)
    log = jnp.where(consistency > 0, jnp.log(high), -jnp.log(low)) * consistency
    return jnp.clip(jnp.exp(log), low, high)  # exp may round past a bound


def _scaled(layout: Layout, grads: Updates, factors: dict[str, jax.Array]) -> PyTree:
    if layout.granularity == GLOBAL:
        factor = factors[GLOBAL][0, 0]
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    by_leaf = iter(layout.scatter(factors).values())
    return jax.tree.map(lambda g: g * next(by_leaf)[0].astype(g.dtype), grads)
