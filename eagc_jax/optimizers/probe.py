"""The preconditioner, measured: the optimizer is asked what it would do.

No hyperparameter is declared, so none can be wrong: learning rates and their schedules,
decays, eps, bias corrections, masks and groups are those of the optimizer that is held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
from eagc_jax.typing import OptState, Params, PyTree, Updates

Gain = DiagonalGain | MatrixGain

# Where the K gradients cancel, the next one is expected to be this share of their sizes.
_LEFT_OVER = 0.01
# Entries of a leaf that is summed over its objectives in one operation.
_FEW = 2**16


class Expected(NamedTuple):
    """The gradient that this step is expected to have."""

    # Like params, float32 or wider: 0 only where all K gradients are.
    gradient: Updates
    sizes: PyTree  # like params: the sum of its terms' sizes.


def expect(
    updates: Updates,
    weights: jax.Array | ByLeaf,
    active: jax.Array,
    always: jax.typing.ArrayLike | None = None,
) -> Expected:
    """``sum_k w_k g_k`` with the last step's weights, equal ones before there were any.

    What isn't finite, or takes no part, counts as zero.

    Args:
      updates: leaves ``(K, *shape)``.
      weights: an aggregator's, ``(K,)`` or by leaf ``(K, *block)``.
      active: ``(K,)`` bool.
      always: a bool that is True, but not known to be while compiling: with it the
        gradients are read for this once on CPU, not again for whatever is made of it.
        Elsewhere :func:`probe` sees to that.
    """
    leaves = named_leaves(updates)

    def compute():
        return {n: _expect_leaf(n, leaf, weights, active) for n, leaf in leaves.items()}

    def on_cpu():  # where compilers look through a barrier, but not into a branch
        def never():
            return {n: (widened(x[0]), widened(x[0])) for n, x in leaves.items()}

        return jax.lax.cond(always, compute, never)

    if always is None:
        found = compute()
    else:
        found = jax.lax.platform_dependent(cpu=on_cpu, default=compute)
    trees = zip(*found.values(), strict=True)
    return Expected(
        *[jax.tree.unflatten(jax.tree.structure(updates), t) for t in trees]
    )


def _expect_leaf(
    name: str, leaf: jax.Array, weights: jax.Array | ByLeaf, active: jax.Array
) -> tuple[jax.Array, jax.Array]:
    own = weights[name] if isinstance(weights, ByLeaf) else weights
    own = jnp.where(jnp.any(own != 0, axis=0), own, 1 / leaf.shape[0])
    own = expand_to(jnp.where(expand_to(active, own.ndim), own, 0), leaf.ndim)

    def term(row, weight):
        wide = widened(row)
        return jnp.where(jnp.isfinite(wide), wide * weight.astype(wide.dtype), 0)

    def total(function):
        # The TPU's compiler makes three programs of a vector's rows, taken one by one.
        if leaf.size <= _FEW:
            return jnp.sum(function(leaf, own), axis=0)
        return sum_by_row(function, leaf, own)

    mean, sizes = total(term), total(lambda *row: jnp.abs(term(*row)))
    far = jnp.maximum(jnp.abs(mean), _LEFT_OVER * sizes)
    return jnp.where(mean < 0, -far, far), sizes


def probe(
    update: Callable[..., tuple[Updates, OptState]],
    state: OptState,
    params: Params,
    expected: Expected,
    include_momentum: bool,
    narrow: bool = False,
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
      narrow: whether it was made from gradients narrower than float32.

    Raises:
      ValueError: an optimizer of which this isn't true.
    """
    state, params = (jax.tree.map(_widened, tree) for tree in (state, params))
    signed = means_of(state, optax.ScaleByLionState)
    matrices = means_of(state, contrib.MuonState)
    if include_momentum and signed:
        raise ValueError(
            f"include_momentum needs a step that is linear in momentum; Lion's, of leaf "
            f"'{next(iter(signed))}', is a sign. Use certify=True without it."
        )
    _check(update, state, params, expected, signed, matrices)
    expected = _apart(expected, narrow, bool(matrices), include_momentum)
    nowhere = None if params is None else jax.tree.map(jnp.zeros_like, params)
    alone, after_alone = update(expected.gradient, without_means(state), nowhere)
    whole, _ = update(expected.gradient, state, params)
    decayless, after = whole, state
    if signed or matrices:
        decayless, after = update(expected.gradient, state, nowhere)
    alone, whole, decayless, gradient = map(
        named_leaves, (alone, whole, decayless, expected.gradient)
    )
    means = means_of(after, optax.ScaleByLionState) | means_of(after, contrib.MuonState)
    alones = means_of(after_alone, contrib.MuonState)

    def of_leaf(name):
        mine = gradient[name]
        if name in signed:
            least = _LEFT_OVER * named_leaves(expected.sizes)[name]
            return sign.of_probe(mine, alone[name], means[name], least)
        if name in matrices:
            of_muon = matrix.Means(alones[name], means[name])
            decay = whole[name] - decayless[name] if include_momentum else None
            return matrix.of_probe(name, mine, decayless[name], of_muon, decay)
        full = whole[name] if include_momentum else None
        return diagonal.of_probe(mine, alone[name], full)

    # What is read of the gradients ends here: one program a leaf, from K gradients to its
    # gain, is not made a part of the products that follow.
    return jax.lax.optimization_barrier({name: of_leaf(name) for name in gradient})


def _apart(
    expected: Expected, narrow: bool, matrices: bool, include_momentum: bool
) -> Expected:
    """The same, where it pays written out before the optimizer is asked.

    Muon's programs are many, and each would read the K gradients. On TPU it was measured
    (docs/scaling.md): of narrow gradients with momentum the whole compiles a quarter
    sooner for it, of wide ones without momentum it reads and writes fewer bytes. In the
    two other cases it mostly moves more.
    """
    barrier, same = jax.lax.optimization_barrier, lambda given: given
    return jax.lax.platform_dependent(
        expected,
        tpu=barrier if matrices or narrow == include_momentum else same,
        default=barrier if matrices else same,
    )


def _widened(leaf: jax.Array) -> jax.Array:
    """Narrow means and parameters in float32, as the gradient is that is probed with."""
    inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return widened(jnp.asarray(leaf)) if inexact else leaf


def metric_of(gains: dict[str, Gain], leaves: dict[str, jax.Array]) -> Metric:
    """Of all leaves, ``(K, *shape)``."""
    found = {name: gains[name].coordinates(leaf) for name, leaf in leaves.items()}
    return Metric(
        {name: gain.metric() for name, gain in gains.items()},
        {name: x for name, x in found.items() if x is not None},
    )


def _check(
    update: Callable[..., tuple[Updates, OptState]],
    state: OptState,
    params: Params,
    expected: Expected,
    signed: dict[str, jax.Array],
    matrices: dict[str, jax.Array],
) -> None:
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
