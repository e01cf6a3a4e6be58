"""GradNorm: weights that bring the objectives' gradient norms to a common target."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, SHARE, check_num_objectives, check_number
from eagc_jax._trees import increment, named_leaves, ratio
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import row_norms
from eagc_jax.typing import OptState, Params, PyTree, Updates


class GradNormState(NamedTuple):
    """The weights of the next step, and the losses that rates are relative to."""

    weights: jax.Array  # shape=(K,), float32: summing to K.
    initial: jax.Array  # shape=(K,), float32: each loss where it was first positive.
    count: jax.Array  # shape=(), int32: steps taken.


@_direct.shows_options
def gradnorm(
    num_objectives: int,
    *,
    alpha: float = 1.5,
    learning_rate: optax.ScalarOrSchedule = 0.025,
    layers: str | Callable[[str], bool] | None = None,
    relative: bool = True,
    min_weight: float = 1e-3,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Learns loss weights that bring gradient norms to a common target.

    With :math:`n_k` the norm of objective k's gradient in the chosen layers,
    :math:`G_k=w_kn_k`, :math:`\bar G` their mean, :math:`\tilde L_k=L_k/L_k(0)` and
    :math:`r_k=\tilde L_k/\mathrm{mean}(\tilde L)`, it descends on

    .. math:: \sum_k |G_k - T_k|, \qquad T_k = \bar G\, r_k^\alpha \text{ held fixed,}

    by the gradient in closed form, :math:`w_k\leftarrow
    w_k-\eta\,\mathrm{sign}(G_k-T_k)\,n_k`, and renormalises to :math:`\sum_kw_k=K`. The
    weights of a step are those from before its move. No second derivative is needed:
    the targets are constants and G is linear in w.

    As published the move is proportional to :math:`n_k`, so :math:`\eta` depends on the
    gradients' scale; ``relative=True`` divides by the mean norm. Fixed point: equal
    :math:`w_kn_k/r_k^\alpha`, around which w oscillates by about :math:`\eta`.
    Guarantee: none against conflict. Length: "sum". Cost: norms of the chosen layers,
    and the weighted sum. Memory: 2K numbers.

    Args:
      num_objectives: K, a Python int.
      alpha: the strength of the pull towards equal training rates, >= 0; 0 makes the
        norms equal. The paper uses 1.5 and 0.12.
      learning_rate: :math:`\eta`, of the weights, a number >= 0 or a schedule.
      layers: whose norms: the path of a leaf or of a subtree ("trunk/11"), a function
        from path to bool, or None for all. The paper takes the last shared layer.
      relative: whether moves are relative to the mean norm.
      min_weight: weights stay above it, but for the renormalisation; in [0, 1).
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses, > 0. State: :class:`DirectState`, ``method`` a
      ``GradNormState``.

    Raises:
      ValueError: bad arguments (at once); no ``value``, or no leaf in ``layers`` (when
        traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import gradnorm
      >>> tx = gradnorm(2, alpha=0.0, learning_rate=0.1)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> _, state = tx.update(grads, state, value=jnp.ones(2))
      >>> [round(float(w), 3) for w in state.method.weights]
      [0.895, 1.105]

    References:
      Chen et al., `GradNorm <https://arxiv.org/abs/1711.02257>`_, 2018, equations 1-2
      and algorithm 1.
    """
    number = check_num_objectives(num_objectives)
    check_number("alpha", alpha, NONNEGATIVE)
    check_number("learning_rate", learning_rate, NONNEGATIVE)
    check_number("min_weight", min_weight, SHARE)
    if not (layers is None or isinstance(layers, str) or callable(layers)):
        raise ValueError(
            f"layers must be a path, a function from path to bool, or None; got "
            f"{layers!r}."
        )

    def init(params: Params) -> GradNormState:
        del params
        ones = jnp.ones((number,), jnp.float32)
        return GradNormState(ones, jnp.zeros_like(ones), jnp.zeros([], jnp.int32))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        first = step.active & (state.initial <= 0) & (step.values > 0)
        initial = jnp.where(first, step.values, state.initial)
        norms = _norms(step, layers)
        rates = ratio(step.values, initial, 1.0)
        moved = gradnorm_step(
            state.weights,
            norms,
            rates,
            step.active,
            alpha=alpha,
            learning_rate=_arithmetic.scheduled(learning_rate, state.count),
            relative=relative,
            min_weight=min_weight,
        )
        count = increment(state.count)
        return state.weights, GradNormState(moved, initial, count)

    method = _direct.Method("gradnorm", "sum", init, apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)


def gradnorm_step(
    weights: jax.Array,
    norms: jax.Array,
    rates: jax.Array,
    active: jax.Array | None = None,
    *,
    alpha: float = 1.5,
    learning_rate: jax.typing.ArrayLike = 0.025,
    relative: bool = True,
    min_weight: float = 1e-3,
) -> jax.Array:
    """One step of GradNorm on the weights.

    Args:
      weights: ``(K,)``.
      norms: ``(K,)``, of the unweighted gradients.
      rates: ``(K,)``, losses over initial losses.
      active: ``(K,)`` bool, or None for all; the others' weights stay.
      alpha: as in :func:`gradnorm`.
      learning_rate: a number.
      relative: as in :func:`gradnorm`.
      min_weight: as in :func:`gradnorm`.

    Returns:
      ``(K,)``, with the sum of ``weights``.
    """
    if active is None:
        active = jnp.ones(weights.shape, bool)
    # Norms over the largest: products with them stay in range.
    largest = jnp.max(jnp.where(active, norms, 0.0))
    scaled = ratio(norms, largest)
    r = ratio(rates, _arithmetic.masked_mean(rates, active), 1.0)
    sizes = weights * scaled
    target = _arithmetic.masked_mean(sizes, active) * jnp.maximum(r, 0.0) ** alpha
    slope = jnp.sign(sizes - target)
    if relative:
        slope = slope * ratio(scaled, _arithmetic.masked_mean(scaled, active))
    else:
        slope = slope * norms
    moved = jnp.maximum(weights - learning_rate * slope, min_weight)
    budget = jnp.sum(jnp.where(active, weights, 0.0))
    moved = moved * ratio(budget, jnp.sum(jnp.where(active, moved, 0.0)), 1.0)
    return jnp.where(active, moved, weights)


def _norms(step: _direct.Step, layers: str | Callable[[str], bool] | None) -> jax.Array:
    if layers is None:
        return step.norms()
    chosen = list(_chosen(step.updates, layers).values())
    return row_norms(chosen, step.active, step.names)[0].astype(jnp.float32)


def _chosen(
    updates: Updates, layers: str | Callable[[str], bool]
) -> dict[str, jax.Array]:
    leaves = named_leaves(updates)
    if callable(layers):
        chosen = {name: leaf for name, leaf in leaves.items() if layers(name)}
    else:
        chosen = {
            name: leaf
            for name, leaf in leaves.items()
            if name == layers or name.startswith(layers + "/")
        }
    if not chosen:
        raise ValueError(
            f"layers={layers!r} matches no leaf; the leaves are {list(leaves)[:10]}."
        )
    return chosen
