"""GCond: pairwise conflicts resolved by angle, with an arbitrator, then momentum."""

from __future__ import annotations

import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    DECAY,
    POSITIVE,
    check_count,
    check_num_objectives,
    check_number,
)
from eagc_jax._trees import counted, increment, ratio, select, wide_zeros, widened
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import Gram, cross_gram, gram_of_tree
from eagc_jax.objectives import expand_to
from eagc_jax.typing import OptState, Params, PyTree, Updates

# What float32 can't tell apart: 84 roundings. A cosine this far below the threshold is a
# conflict: after a full projection it is 0 to rounding, and without the margin the same
# pair would be found again. Scores and norms closer than this are equal.
_MARGIN = 1e-5


class GcondState(NamedTuple):
    """What the arbitrator goes by, and the momentum."""

    previous: Updates  # leaves (K, *shape): last resolved gradients, of norm 1.
    norm_average: jax.Array  # shape=(K,), float32: running mean of the norms.
    visits: jax.Array  # shape=(K,), int32: steps in which the objective took part.
    history: jax.Array  # shape=(window,), int32: the last winners; -1 for none.
    momentum: PyTree  # like params, float32: running mean of the update.
    weights: jax.Array  # shape=(K,), float32: of the last step, before the momentum.
    conflicts: jax.Array  # shape=(), int32: projections made in the last step.
    count: jax.Array  # shape=(), int32: steps.


class Rules(NamedTuple):
    """Constants of the resolution."""

    thresholds: tuple[float, float, float]  # critical <= main <= weak.
    power: float
    score_weights: tuple[float, float]  # of stability and of strength.


@_direct.shows_options
def gcond(
    num_objectives: int,
    *,
    thresholds: tuple[float, float, float] = (-0.8, -0.5, 0.0),
    power: float = 2.0,
    momentum: float = 0.85,
    norm_decay: float = 0.95,
    score_weights: tuple[float, float] = (0.8, 0.2),
    window: int = 3,
    max_projections: int | None = None,
    relative: bool = True,
    memory_dtype: jax.typing.DTypeLike | None = None,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient conductor: projects conflicting pairs, the worst first, by their angle.

    At most 2K times, take the pair with the smallest cosine c among the gradients as
    they now are; stop where :math:`c\ge t_{weak}`. An arbitrator names a winner w and a
    loser l, and both are projected at once,

    .. math::
      g_w \leftarrow g_w - s_w\frac{\langle g_w,g_l\rangle}{\|g_l\|^2}g_l, \quad
      g_l \leftarrow g_l - s_l\frac{\langle g_w,g_l\rangle}{\|g_w\|^2}g_w, \quad
      s_w=\sin\alpha,\ s_l=\sin\min(\alpha,\tfrac\pi2),

    with :math:`\alpha` from 0 at :math:`t_{weak}` linearly to :math:`\pi/2` at
    :math:`t_{main}`, on with the given power to :math:`\pi` at :math:`t_{crit}`: mild
    conflicts are halved between the two, strong ones are the loser's. Then
    :math:`d=\sum_kg_k` and :math:`m\leftarrow\beta m+(1-\beta)d`; the update is m less
    its bias. An objective's score is 0.8 times its stability, the cosine with its own
    last resolved gradient or 0, plus 0.2 times its share of the pair's strength, norm
    over running norm. The higher score wins, but whoever has won the last ``window``
    conflicts loses (as in the authors' code; their README says the opposite). Equal
    scores, which all objectives have in their first conflict, go to the longer gradient
    (there, running norms that start at 1 say the same), then to the first.

    All of this happens in K x K matrices. ``relative=False`` keeps two constants of the
    published code that depend on the gradients' scale: pairs with a norm below 1e-4 are
    ignored, and running norms start at 1. Else a norm counts as none below 1e-5 of the
    largest, and running norms start at the first norm. Accumulation, the method's first
    phase, is :func:`eagc_jax.aggregators.accumulate_objectives` around this and the
    optimizer; its masks give the "stochastic" mode.

    Guarantee: without conflict the sum; none against conflict. Length: "sum". Cost: two
    Gram passes, two weighted sums: at least 3K + 1 read and K + 2 written, in copies of
    the parameters (made here: 6K + 2 and K + 2). Memory: K + 1 copies of the parameters.

    Args:
      num_objectives: K, a Python int.
      thresholds: :math:`(t_{crit}, t_{main}, t_{weak})`, increasing, in [-1, 1].
      power: > 0.
      momentum: :math:`\beta` in [0, 1); 0 for none.
      norm_decay: of the running norms, in [0, 1).
      score_weights: of stability and strength, >= 0.
      window: wins in a row after which an objective loses, >= 0; 0 for never.
      max_projections: None for 2K.
      relative: whether constants are relative to the gradients' scale.
      memory_dtype: of the last resolved gradients; None for float32 (the leaves' own
        where wider), jnp.bfloat16 as published.
      **options: ``preference`` (the method's loss weights), ``rescale``, ``nonfinite``,
        as in :func:`eagc_jax.aggregators.dwa`; gradients are multiplied by the
        preference first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`, ``method`` a ``GcondState``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import gcond
      >>> tx = gcond(2)
      >>> grads = {"w": jnp.array([[1.0, 1.0], [-1.0, 0.0]])}  # cosine -0.71
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(1), int(state.method.conflicts)
      (Array([-0.2,  1.5], dtype=float32), 1)

    References:
      Alves Limarenko et al., `GCond <https://arxiv.org/abs/2509.07252>`_, 2025, and the
      authors' code.
    """
    number = check_num_objectives(num_objectives)
    rules = Rules(thresholds, power, score_weights)
    _check(rules, window, max_projections)
    check_number("momentum", momentum, DECAY)
    check_number("norm_decay", norm_decay, DECAY)
    rounds = 2 * number if max_projections is None else max_projections

    def init(params: Params) -> GcondState:
        zeros = wide_zeros(params, number)
        if memory_dtype is not None:
            zeros = jax.tree.map(lambda x: x.astype(memory_dtype), zeros)
        counts = jnp.zeros((number,), jnp.int32)
        start = jnp.zeros((number,), jnp.float32)
        return GcondState(
            previous=zeros,
            norm_average=start if relative else start + 1.0,
            visits=counts,
            history=jnp.full((window,), -1, jnp.int32),
            momentum=wide_zeros(params),
            weights=start,
            conflicts=jnp.zeros([], jnp.int32),
            count=jnp.zeros([], jnp.int32),
        )

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        _direct.check_real(step.updates, "gcond")
        gram = _gram(step)
        norms = gram.norms * gram.scale
        last = state.norm_average.astype(norms.dtype)
        average = norm_decay * last + (1 - norm_decay) * norms
        if relative:
            average = jnp.where(state.visits == 0, norms, average)
        else:
            average = jnp.maximum(average, 1e-8)
        average = jnp.where(step.active, average, last)
        floor = 1e-10 if relative else 1e-8 / gram.scale**2
        history, mixing, conflicts = resolve(
            gram.matrix,
            _along_previous(step, state.previous, gram.scale),
            ratio(average, gram.scale),
            state.history,
            rules,
            rounds,
            floor,
        )
        weights = jnp.sum(mixing, axis=0).astype(jnp.float32)
        count = increment(state.count)

        def move(m, x):
            moved = momentum * m + (1 - momentum) * x
            return jnp.where(step.advance, moved, m)

        moved = jax.tree.map(move, state.momentum, step.weighted(weights))
        correction = 1 - momentum ** count.astype(jnp.float32)
        visits = counted(state.visits, step.active)
        small = {
            "norm_average": average.astype(jnp.float32),
            "visits": visits,
            "history": history,
            "weights": weights,
            "conflicts": conflicts,
            "count": count,
        }
        before = {name: getattr(state, name) for name in small}
        new = GcondState(
            previous=_resolved(step, state.previous, mixing, gram),
            momentum=moved,
            **select(step.advance, small, before),
        )
        return jax.tree.map(lambda m: m / correction.astype(m.dtype), moved), new

    method = _direct.Method(
        "gcond", "sum", init, apply, weighs=False, look=gram_of_tree, keeps=True
    )
    return _direct.from_method(num_objectives, method, **options)


# ---------------------------------------------------------------------------
# The resolution, in K x K matrices
# ---------------------------------------------------------------------------


def resolve(
    gram: jax.Array,
    along: jax.Array,
    average: jax.Array,
    history: jax.Array,
    rules: Rules,
    rounds: int,
    floor: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Projects pairs until none conflicts, or ``rounds`` times.

    Args:
      gram: ``(K, K)``.
      along: ``(K, K)``, products of gradient i with k's last resolved one, of norm 1.
      average: ``(K,)``, running norms in the unit of the Gram matrix's roots.
      history: ``(window,)`` int32, the last winners.
      rules: the constants.
      rounds: at most this many projections.
      floor: a squared norm below which a gradient is in no conflict.

    Returns:
      The history; the ``(K, K)`` matrix that mixes gradients into resolved ones; the
      number of projections.
    """
    number = gram.shape[0]
    pairs = jnp.triu(jnp.ones((number, number), bool), 1)

    def body(_, carry):
        history, mixing, conflicts = carry
        now = _product(_product(mixing, gram), mixing.T)
        squares = jnp.maximum(jnp.diagonal(now), 0.0)
        roots = jnp.sqrt(squares)
        size = roots[:, None] * roots[None, :]
        usable = (squares >= floor) & (squares > 0)
        usable = pairs & usable[:, None] & usable[None, :]
        cosines = jnp.where(usable, now / jnp.where(size > 0, size, 1.0), jnp.inf)
        place = jnp.argmin(cosines).astype(jnp.int32)
        i, j = place // number, place % number
        cosine = jnp.clip(cosines[i, j], -1.0, 1.0)
        conflict = cosines[i, j] < rules.thresholds[2] - _MARGIN
        stability = ratio(jnp.diagonal(_product(mixing, along)), roots)
        strength = ratio(roots, average)
        i_wins = _i_wins(i, j, stability, strength, roots, history, rules)
        winner, loser = jnp.where(i_wins, i, j), jnp.where(i_wins, j, i)
        moved = _projected(mixing, now, winner, loser, _angle(cosine, rules))
        record = jnp.roll(history, -1)
        record = record.at[-1].set(winner) if history.shape[0] else history
        return (
            jnp.where(conflict, record, history),
            jnp.where(conflict, moved, mixing),
            conflicts + conflict.astype(jnp.int32),
        )

    start = (history, jnp.eye(number, dtype=gram.dtype), jnp.zeros([], jnp.int32))
    if number == 1:
        return start
    return jax.lax.fori_loop(0, rounds, body, start)


def _angle(cosine: jax.Array, rules: Rules) -> jax.Array:
    """The angle whose sines say how much of a conflict is taken from whom."""
    critical, main, weak = rules.thresholds
    half = math.pi / 2
    mild = half * (1 - (cosine - main) / max(weak - main, 1e-8))
    share = (cosine - main) / min(critical - main, -1e-8)
    strong = half + half * jnp.clip(share, 0.0, 1.0) ** rules.power
    angle = jnp.where(cosine >= main, jnp.clip(mild, 0.0, half), strong)
    return jnp.where(cosine <= critical, math.pi, angle)


def _i_wins(
    i: jax.Array,
    j: jax.Array,
    stability: jax.Array,
    strength: jax.Array,
    norms: jax.Array,
    history: jax.Array,
    rules: Rules,
) -> jax.Array:
    """The arbitrator: who won every recorded conflict loses; else the higher score."""
    for_stability, for_strength = rules.score_weights
    steady = for_stability * jnp.maximum(stability, 0.0)
    both = strength[i] + strength[j]
    score = steady + for_strength * ratio(strength, both)
    # A tie left to rounding would differ from one device to the next.
    tied = jnp.abs(score[i] - score[j]) <= _MARGIN
    longer = norms[i] >= norms[j] * (1 - _MARGIN)
    first = jnp.where(tied, longer, score[i] > score[j])
    if not history.shape[0]:
        return first
    i_dominates, j_dominates = jnp.all(history == i), jnp.all(history == j)
    return jnp.where(i_dominates, False, jnp.where(j_dominates, True, first))


def _projected(
    mixing: jax.Array,
    now: jax.Array,
    winner: jax.Array,
    loser: jax.Array,
    angle: jax.Array,
) -> jax.Array:
    inner = now[winner, loser]
    for_winner = jnp.sin(angle) * ratio(inner, now[loser, loser])
    half = jnp.minimum(angle, math.pi / 2)
    for_loser = jnp.sin(half) * ratio(inner, now[winner, winner])
    moved = mixing.at[winner].add(-for_winner * mixing[loser])
    return moved.at[loser].add(-for_loser * mixing[winner])


# ---------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------


def _gram(step: _direct.Step) -> Gram:
    """The Gram matrix of the step's gradients, from that of the updates."""
    gram = step.seen
    norms = jnp.where(step.active, gram.norms, 0.0)
    if step.factors is not None:
        norms = norms * step.factors.astype(norms.dtype)
    largest = jnp.max(norms)
    return Gram(gram.cosines, ratio(norms, largest), gram.scale * largest)


def _along_previous(
    step: _direct.Step, previous: Updates, scale: jax.Array
) -> jax.Array:
    wide = jax.tree.map(lambda p, u: p.astype(widened(u).dtype), previous, step.updates)
    products = cross_gram(step.updates, wide, axis_name=step.names or None)
    if step.factors is not None:
        products = products * step.factors.astype(products.dtype)[:, None]
    products = jnp.where(step.active[:, None], products, 0.0)
    return ratio(products, scale.astype(products.dtype))


def _resolved(
    step: _direct.Step, previous: Updates, mixing: jax.Array, gram: Gram
) -> PyTree:
    """This step's resolved gradients over their norms; the old ones of the absent."""
    squares = jnp.diagonal(_product(_product(mixing, gram.matrix), mixing.T))
    norms = jnp.sqrt(jnp.maximum(squares, 0.0)) * gram.scale
    over_norms = ratio(mixing, jnp.broadcast_to(norms[:, None], mixing.shape))
    moves = step.active & step.advance

    def mix(old, leaf):
        rows = step.rows(leaf)
        # K outer products, entry by entry: one pass, the rows of a (K, K) product.
        found = _arithmetic.total(
            [
                expand_to(over_norms[:, k], leaf.ndim).astype(row.dtype) * row[None]
                for k, row in enumerate(rows)
            ]
        )
        return jnp.where(expand_to(moves, leaf.ndim), found.astype(old.dtype), old)

    return jax.tree.map(mix, previous, step.updates)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _check(rules: Rules, window: int, max_projections: int | None) -> None:
    thresholds = rules.thresholds
    if len(thresholds) != 3 or not (
        -1 <= thresholds[0] <= thresholds[1] <= thresholds[2] <= 1
    ):
        raise ValueError(
            "thresholds must be (critical, main, weak), increasing, in [-1, 1]; got "
            f"{thresholds!r}."
        )
    check_number("power", rules.power, POSITIVE)
    if len(rules.score_weights) != 2 or min(rules.score_weights) < 0:
        raise ValueError(
            f"score_weights must be two numbers >= 0, got {rules.score_weights!r}."
        )
    check_count("window", window, 0)
    if max_projections is not None:
        check_count("max_projections", max_projections, 0)
