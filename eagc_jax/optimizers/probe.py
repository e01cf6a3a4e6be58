"""The preconditioner, measured: the optimizer is asked what it would do.

No hyperparameter is declared, so none can be wrong: learning rates and their schedules,
decays, eps, bias corrections, masks and groups are those of the optimizer that is held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from eagc_jax._by_leaf import ByLeaf
from eagc_jax._trees import named_leaves, widened
from eagc_jax.gram import Metric
from eagc_jax.objectives import expand_to, sum_by_row
from eagc_jax.optimizers import diagonal, matrix, sign
from eagc_jax.optimizers.diagonal import DiagonalGain
from eagc_jax.optimizers.matrix import MatrixGain
from eagc_jax.optimizers.program import check_program
from eagc_jax.optimizers.recognise import marks_of_means, means_of, without_means

Gain = DiagonalGain | MatrixGain

# Where the K gradients cancel, the next one is expected to be this share of their sizes.
_LEFT_OVER = 0.01


class Expected(NamedTuple):
    """The gradient that this step is expected to have."""

    gradient: Any  # like params, float32 or wider: 0 only where all K gradients are.
    least: dict[str, jax.Array]  # by leaf, its least size, entry by entry.


def expect(updates: Any, weights: Any, active: jax.Array) -> Expected:
    """``sum_k w_k g_k`` with the last step's weights, equal ones before there were any.

    What isn't finite, or takes no part, counts as zero.

    Args:
      updates: leaves ``(K, *shape)``.
      weights: an aggregator's, ``(K,)`` or by leaf ``(K, *block)``.
      active: ``(K,)`` bool.
    """
    leaves = named_leaves(updates)
    found, least = [], {}
    for name, leaf in leaves.items():
        own = weights[name] if isinstance(weights, ByLeaf) else weights
        own = jnp.where(jnp.any(own != 0, axis=0), own, 1 / leaf.shape[0])
        own = expand_to(own, leaf.ndim)

        def terms(row, weight, kept):
            wide = widened(row)
            kept = kept & jnp.isfinite(wide)
            return jnp.where(kept, wide, 0) * weight.astype(wide.dtype)

        kept = expand_to(active, leaf.ndim)
        mean = sum_by_row(terms, leaf, own, kept)
        sizes = sum_by_row(lambda *row: jnp.abs(terms(*row)), leaf, own, kept)
        least[name] = _LEFT_OVER * sizes
        far = jnp.maximum(jnp.abs(mean), least[name])
        found.append(jnp.where(mean < 0, -far, far))
    return Expected(jax.tree.unflatten(jax.tree.structure(updates), found), least)


def probe(
    update: Any, state: Any, params: Any, expected: Expected, include_momentum: bool
) -> dict[str, Gain]:
    """What the optimizer makes of a gradient, by leaf.

    Adaptive parts are even in the gradient, means enter linearly. So the step from an
    expected gradient with every mean and parameter at 0 is its preconditioner times that
    gradient, exactly; and what is missing to the whole step is what momentum and weight
    decay do.

    Args:
      update: the optimizer's, ``(gradient, state, params)``.
      state: the optimizer's.
      params: or None.
      expected: this step's gradient.
      include_momentum: whether gains have a rest.

    Raises:
      ValueError: an optimizer of which this isn't true.
    """
    signed = means_of(state, optax.ScaleByLionState)
    matrices = means_of(state, contrib.MuonState)
    if include_momentum and signed:
        raise ValueError(
            f"include_momentum needs a step that is linear in momentum; Lion's, of leaf "
            f"'{next(iter(signed))}', is a sign. Use certify=True without it."
        )
    _check(update, state, params, expected, signed, matrices)
    nowhere = None if params is None else jax.tree.map(jnp.zeros_like, params)
    alone, after_alone = update(expected.gradient, without_means(state), nowhere)
    whole, _ = update(expected.gradient, state, params)
    decayless, after = update(expected.gradient, state, nowhere)
    alone, whole, decayless, gradient = map(
        named_leaves, (alone, whole, decayless, expected.gradient)
    )
    means = means_of(after, optax.ScaleByLionState) | means_of(after, contrib.MuonState)
    alones = means_of(after_alone, contrib.MuonState)

    def of_leaf(name):
        mine = gradient[name]
        if name in signed:
            least = expected.least[name]
            return sign.of_probe(mine, alone[name], means[name], least)
        if name in matrices:
            of_muon = matrix.Means(alones[name], means[name])
            decay = whole[name] - decayless[name] if include_momentum else None
            return matrix.of_probe(name, mine, decayless[name], of_muon, decay)
        full = whole[name] if include_momentum else None
        return diagonal.of_probe(mine, alone[name], full)

    return {name: of_leaf(name) for name in gradient}


def metric_of(gains: dict[str, Gain], leaves: dict[str, jax.Array]) -> Metric:
    """Of all leaves, ``(K, *shape)``."""
    found = {name: gains[name].coordinates(leaf) for name, leaf in leaves.items()}
    return Metric(
        {name: gain.metric() for name, gain in gains.items()},
        {name: x for name, x in found.items() if x is not None},
    )


def _check(update, state, params, expected, signed, matrices) -> None:
    nothing = jax.tree.map(lambda _: False, (state, params))
    names = named_leaves(expected.gradient)
    apart = jax.tree.unflatten(
        jax.tree.structure(expected.gradient), [name not in matrices for name in names]
    )
    means = marks_of_means(state, frozenset([*signed, *matrices]))
    no_gradient = jax.tree.map(lambda _: False, apart)
    check_program(
        update,
        (expected.gradient, state, params),
        (apart, *nothing),
        (no_gradient, means, nothing[1]),
    )
