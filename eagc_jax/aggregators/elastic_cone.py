"""The elastic cone: objectives of equal energy, and projections as firm as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import (
    SHARE,
    Interval,
    check_num_objectives,
    check_number,
    check_preference,
    check_vector,
    concrete,
)
from eagc_jax._trees import counted
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._persistence import (
    ConflictAverage,
    init_conflict_average,
    rate_of,
    remembered,
)
from eagc_jax.aggregators._weighting import Problem, Weighting, problem_of, unscale
from eagc_jax.solvers.nnqp import SolveInfo
from eagc_jax.solvers.nnqp_many import nnqp_many

# The most that one step counts for in an objective's running energy, in log units: a
# gradient ten times the usual size and one that is a million times as long do the same.
_CLIP = float(np.log(10.0))
_FROM_ONE = Interval(1, np.inf)


class ElasticConeState(NamedTuple):
    """What is remembered of each objective, per block."""

    # shape=(K,), float32: the running mean of the logarithm of the gradient's norm.
    log_energies: jax.Array
    gates: jax.Array  # shape=(K,), float32: of the last step, before the projections.
    counts: jax.Array  # shape=(K,), int32: steps in which it had a gradient.
    conflicts: ConflictAverage | tuple[()] = ()  # () without conflict_memory.


@shows_options
def elastic_cone(
    num_objectives: int,
    *,
    balance: float = 0.5,
    memory: float = 1000.0,
    stiffness: float | Sequence[float] | jax.typing.ArrayLike = 1.0,
    conflict_memory: float | None = None,
    release: float = 1.0,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Brings objectives to equal energy, slowly, then takes out conflict, elastically.

    The reduction of :func:`eagc_jax.eagc`. With the gradients :math:`g_k`, the weights
    :math:`w_k` (the preference, K in sum) and t the steps in which objective k had a
    gradient:

    1. *Energy* is a running geometric mean of the gradient's norm, whose logarithm moves
       by :math:`a_t = \max(1/t, 1/T)`, T the ``memory``, of a difference that counts for
       at most a factor of ten,

       .. math:: \ell_k \leftarrow \ell_k + a_t\,\mathrm{clip}(\log\|g_k\| - \ell_k,
          \pm\log 10), \qquad E_k = e^{\ell_k}.

       Where it falls, by :math:`a_t / r`, r the ``release``: a gradient that grows
       shorter because its loss is learned raises its own weight r times more slowly. Of
       a norm that varies without a trend E is then no mean of the logarithm but its
       expectile at r / (1 + r).

    2. A *gate* for each objective brings the energies together; they keep their sum,

       .. math:: b_k = E_k^{-\beta}\, \frac{\sum_j w_j E_j}{\sum_j w_j E_j^{1-\beta}},
          \qquad \sum_k w_k b_k E_k = \sum_k w_k E_k,

       :math:`\beta` the ``balance``. Gates know no bound, since losses may be in any
       units, but are slow: once t has reached T no step, whatever its gradients,
       changes the ratio of two by more than a factor of :math:`10^{2\beta/T}`.

    3. *Projection*: of each gradient, as UPGrad does, on the cone without conflict, but
       by springs. With the cosines C of the gradients and the stiffness :math:`\rho_k` in
       [0, 1] that protects objective k,

       .. math:: d = \sum_i w_i b_i \Big(g_i + \|g_i\| \sum_k \lambda_{ik}
          \frac{g_k}{\|g_k\|}\Big), \quad \lambda_i = \arg\min_{x \ge 0} \tfrac12 x^\top
          \Big(C + \mathrm{diag}\frac{1-\rho_k}{\rho_k}\Big) x + (C e_i)^\top x.

       Of two gradients that conflict, each gives up the share :math:`\rho_k` of what is
       against the other. ``stiffness=0`` is the weighted sum, 1 is UPGrad's projection,
       and a 1 for one objective alone lets that one lead.
    4. With ``conflict_memory`` *persistent* conflict alone is taken out. The stiffness is
       :math:`\rho_k p_k`, with m and s the running means, of that memory and with the
       same rates, of a pair's cosine and of its absolute value,

       .. math:: p_k = \max_i\, \min\big(1, \max(0, -m_{ik} / s_{ik})\big).

       1 for an objective with which another conflicts in every step, 0 where conflict
       is outweighed by agreement, near 0 where the sign is the batches' noise; a half
       where of cosines of one size three quarters are negative. It is one number an
       objective, of the pair that opposes most, not one a pair: the K problems keep one
       matrix, and no gradient that is changed for one objective is turned against a
       third that it agrees with but another conflicts with steadily. An objective that
       conflicts with none needs no stiffness: others only gain parts along it.

    Guarantee: conflicts with no objective of stiffness 1; weights are >= 0; where no
    gradients conflict the update is the sum of the gated ones, and with ``balance=0``
    exactly the weighted sum. With ``balance=1``, its direction doesn't depend on the
    units of the losses. With ``conflict_memory`` all of it but the first, which then
    holds for objectives with a :math:`p_k` of 1 alone: an update may raise a loss to
    first order whose conflicts come and go. Length: "sum". Cost: as UPGrad, one Gram
    pass, K problems of K variables, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      balance: :math:`\beta` in [0, 1]; 0 for gates of 1, 1 for equal energies.
      memory: T >= 1, in steps.
      stiffness: :math:`\rho`, a number in [0, 1], or K.
      conflict_memory: >= 1, in steps, or None: every step's conflict counts by itself.
        Of n steps' noise some :math:`1/\sqrt{n}` is left in p.
      release: r >= 1, how many times slower an energy falls than it rises; 1 for
        alike. Measured for 8 in docs/choosing.md.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is w.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``. State: an
      ``AggregateState`` whose ``method`` is an ``ElasticConeState``, with a leading axis
      of blocks. An objective that is absent keeps its energy and what is remembered of
      its conflicts, and moves no gate.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import elastic_cone
      >>> tx = elastic_cone(2, balance=1.0)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)  # both as long as the mean of the two
      Array([2., 2.], dtype=float32)
      >>> tx = elastic_cone(2, balance=0.0, stiffness=0.5)
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}
      >>> tx.update(grads, tx.init({"w": jnp.zeros(2)}))[0]["w"].round(4)
      Array([0.25, 1.25], dtype=float32)
      >>> tx = elastic_cone(2, balance=0.0, conflict_memory=100)
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> for sign in (1.0, -1.0):  # it agrees, then it doesn't: noise, so far
      ...   grads = {"w": jnp.array([[1.0, 0.0], [sign, 1.0]])}
      ...   update, state = tx.update(grads, state)
      >>> update["w"].round(4)
      Array([0., 1.], dtype=float32)

    References:
      The gates, the springs and what persists are this package's own; the projection is
      that of Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
      <https://arxiv.org/abs/2406.16232>`_, 2024. Measured in docs/evidence.md.
    """
    number = check_num_objectives(num_objectives)
    sizes = check_preference(options.get("preference"), number)
    sizes = sizes * (number / jnp.sum(sizes))
    method = elastic_method(sizes, balance, memory, stiffness, conflict_memory, release)
    return from_weighting(number, method, **options)


def elastic_method(
    sizes: jax.Array,
    balance: jax.typing.ArrayLike,
    memory: jax.typing.ArrayLike,
    stiffness: Sequence[float] | jax.typing.ArrayLike,
    conflict_memory: jax.typing.ArrayLike | None = None,
    release: jax.typing.ArrayLike = 1.0,
    *,
    carried: bool = False,
) -> Weighting:
    """The weighting, with the weights w as they are, also where objectives are absent.

    ``carried``: gradients come multiplied by w, from a gate that holds it. Energies are
    then those of the gradients without it: balance must not take a weight for a unit.
    """
    given = {"balance": balance, "memory": memory, "release": release}
    for name, value in (given | {"stiffness": stiffness}).items():
        if value is None:
            raise ValueError(f"{name} must be a number, got None.")
    check_number("balance", balance, SHARE)
    check_number("memory", memory, _FROM_ONE, " (steps)")
    check_number("release", release, _FROM_ONE, " (times as slow)")
    rho = check_vector("stiffness", stiffness, sizes.shape[0], SHARE)
    check_number("conflict_memory", conflict_memory, _FROM_ONE, " (steps), or be None")
    if conflict_memory is not None and _is_zero(stiffness):
        raise ValueError(
            "conflict_memory says which conflicts are taken out, and with stiffness=0 "
            f"none is; got conflict_memory={conflict_memory!r}. Leave it None, or give "
            "a stiffness above 0."
        )
    unit = jnp.where(sizes > 0, sizes, 1.0) if carried else jnp.ones_like(sizes)
    left = jnp.ones_like(sizes) if carried else sizes

    def init(number: int) -> ElasticConeState:
        return ElasticConeState(
            jnp.zeros((number,), jnp.float32),
            jnp.ones((number,), jnp.float32),
            jnp.zeros((number,), jnp.int32),
            () if conflict_memory is None else init_conflict_average(number),
        )

    def apply(
        problem: Problem, state: ElasticConeState
    ) -> tuple[jax.Array, ElasticConeState, SolveInfo]:
        state = assessed(problem, state, memory, unit, release)
        gates = gates_of(state, sizes, balance)
        conflicts = _persisting(problem, state, conflict_memory)
        stiff = rho
        if isinstance(conflicts, ConflictAverage):
            stiff = rho * conflicts.persistence
        weights, info = project(problem, left * gates, stiff)
        return weights, state._replace(gates=gates, conflicts=conflicts), info

    return Weighting("elastic_cone", "sum", apply, init)


def elastic_cone_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    balance: float = 0.5,
    stiffness: float | Sequence[float] | jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """A first step's weights from a ``(K, K)`` Gram matrix: see :func:`elastic_cone`."""
    problem = problem_of(gram, preference)
    number = problem.preference.shape[0]
    sizes = (problem.preference * number).astype(jnp.float32)
    method = elastic_method(sizes, balance, 1.0, stiffness)
    return method.apply(problem, method.init(number))[0]


def _is_zero(value: object) -> bool:
    known = concrete(value)
    return known is not None and not np.any(known)


def _persisting(
    problem: Problem,
    state: ElasticConeState,
    memory: jax.typing.ArrayLike | None,
) -> ConflictAverage | tuple[()]:
    """What is remembered of conflicts after this step; () without a memory."""
    average = state.conflicts
    if isinstance(average, ConflictAverage) != (memory is not None):
        found = "without" if memory is not None else "with"
        raise ValueError(
            f"the state was made {found} conflict_memory, which is otherwise here: call "
            "init again."
        )
    if memory is None or not isinstance(average, ConflictAverage):
        return ()
    return remembered(average, problem.gram.cosines, _present(problem), memory)


def _present(problem: Problem) -> jax.Array:
    """``(K,)`` bool: who takes part with a gradient that isn't 0."""
    return problem.active & (problem.gram.norms > 0)


def assessed(
    problem: Problem,
    state: ElasticConeState,
    memory: jax.typing.ArrayLike,
    unit: jax.Array,
    release: jax.typing.ArrayLike,
) -> ElasticConeState:
    """The state with this step's norms, over ``unit``, in the running energies."""
    norms = problem.gram.norms
    present = _present(problem)
    counts = counted(state.counts, present)
    # The sum of logarithms: the product of norm and scale may leave the range.
    log_norms = jnp.log(jnp.where(present, norms, 1.0)) + jnp.log(
        jnp.where(problem.gram.scale > 0, problem.gram.scale, 1.0)
    )
    step = log_norms.astype(jnp.float32) - jnp.log(unit) - state.log_energies
    falling = (state.counts > 0) & (step < 0)
    step = jnp.where(state.counts > 0, jnp.clip(step, -_CLIP, _CLIP), step)
    slower = jnp.where(falling, 1 / jnp.asarray(release, jnp.float32), 1.0)
    moved = state.log_energies + rate_of(counts, memory) * slower * step
    return state._replace(
        log_energies=jnp.where(present, moved, state.log_energies), counts=counts
    )


def gates_of(
    state: ElasticConeState, sizes: jax.Array, balance: jax.typing.ArrayLike
) -> jax.Array:
    """``(K,)`` float32: gates that bring the energies together and keep their sum.

    Of all objectives that have been seen: a batch without one must not move the others.
    """
    beta = jnp.asarray(balance, jnp.float32)
    known = state.counts > 0
    weights = jnp.where(known, sizes, 0.0).astype(jnp.float32)
    top = jnp.max(jnp.where(known, state.log_energies, -jnp.inf), initial=-jnp.inf)
    relative = jnp.where(known, state.log_energies - top, 0.0)
    energy = jnp.sum(weights * jnp.exp(relative))
    kept = jnp.sum(weights * jnp.exp((1 - beta) * relative))
    gates = jnp.exp(-beta * relative) * (energy / jnp.where(kept > 0, kept, 1.0))
    return jnp.where(known & (kept > 0), gates, 1.0)


def project(
    problem: Problem, weights: jax.Array, stiffness: jax.Array
) -> tuple[jax.Array, SolveInfo]:
    r"""Weights that sum the elastic projections of the weighted gradients.

    In :math:`z = \lambda / \sqrt\rho` the matrix has a unit diagonal and cosines times
    :math:`\sqrt{\rho_k \rho_l}` beside it: regular at every stiffness, 0 included.
    """
    cosines, norms = problem.gram.cosines, problem.gram.norms
    spring = jnp.sqrt(stiffness).astype(norms.dtype)
    softened = cosines * (spring[:, None] * spring[None, :]) + jnp.diag(1 - spring**2)
    added, info = nnqp_many(softened, -cosines * spring[None, :])
    weights = weights.astype(norms.dtype)
    # What is added alone is scaled and unscaled: without conflict it is exactly 0.
    lengths = jnp.sum((weights * norms)[:, None] * added, axis=0) * spring
    return weights + unscale(lengths, norms), info
