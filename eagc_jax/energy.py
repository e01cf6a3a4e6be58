"""Energy assessment: how strongly, and in which direction, each objective pulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONFINITE_POLICIES,
    NONNEGATIVE,
    POSITIVE,
    Interval,
    check_choice,
    check_num_objectives,
    check_number,
    check_objective_axis,
    check_same_names,
    check_same_shapes,
    check_weights,
)
from eagc_jax._shards import (
    AxisName,
    check_averaged,
    check_axis_name,
    max_leaves,
    split_over,
)
from eagc_jax._states import check_state
from eagc_jax._trees import counted, named_leaves, named_specs, select
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity
from eagc_jax.objectives import AssessedUpdates, expand_to, weighted_sum

ENERGIES = ("magnitude", "progress", "exploratory", "sensitivity", "fisher")
SCALES = ("objective", "global")
_ALIASES = {"snip": "sensitivity"}
_ALIGNMENTS = ("progress", "exploratory")
# Added to the second moment, relative to its mean: keeps an entry in which the
# objectives cancel from looking infinitely important.
_FISHER_RIDGE = 1e-6


class AssessEnergyState(NamedTuple):
    """What ``assess_energy`` saw last, and the averages that its energies need."""

    energies: ByLeaf
    # By leaf: relative energies, shape=(K, *block), float32; 1 is the objective's mean
    # over the shared leaves. At granularity "element" their mean, (K,).
    gradient_rms: ByLeaf  # by leaf, shape=(K,), float32, in the gradient's units.
    nonfinite_count: jax.Array  # shape=(K,), int32: steps with a NaN or an infinity.
    # Like params, float32 (complex64 where they are complex): running average of the
    # weighted sum, or ().
    direction: Any
    second_moment: Any  # like params, float32: that of its square, or ().
    count: jax.Array  # shape=(), int32: steps in which the averages moved.


class _Options(NamedTuple):
    mixture: dict[str, float]
    granularity: Granularity
    scale: str
    weights: jax.Array
    alignment_floor: Any
    eps: Any
    nonfinite: str
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: Any = None


def assess_energy(
    num_objectives: int,
    *,
    energy: str | Mapping[str, float] = "magnitude",
    granularity: Granularity = "channel",
    scale: str = "objective",
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
    nonfinite: str = "propagate",
    alignment_floor: float = 0.5,
    direction_decay: float | None = 0.9,
    moment_decay: float | None = 0.999,
    eps: float = 1e-8,
    axis_name: AxisName = None,
    param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Assesses, per block of parameters, the energy of each objective's gradient.

    The first stage of :func:`eagc_jax.eagc`; the article that named EAGC calls it
    *GradientEnergyAnalyzer*. Gradients pass through unchanged; the energies travel with
    them (:class:`eagc_jax.AssessedUpdates`) to :func:`eagc_jax.soft_gate`, which must
    come next, and stay readable in the state.

    With :math:`R_b` the mean over block :math:`b`, :math:`\theta` the parameters,
    :math:`M` a running average of the effective update :math:`P=\sum_k w_k g_k` and
    :math:`c=R_b(g_kM)/\sqrt{R_b(g_k^2)R_b(M^2)}` the cosine with it, the energies are

    ================= ====================================================================
    ``"magnitude"``   :math:`R_b(g_k^2)`
    ``"progress"``    :math:`f+(1-f)(1+c)/2`: along the running direction
    ``"exploratory"`` :math:`f+(1-f)(1-c^2)`: across it
    ``"sensitivity"`` :math:`R_b((g_k\theta)^2)`, the SNIP saliency; also ``"snip"``
    ``"fisher"``      :math:`R_b(g_k^2/(\hat v+\epsilon))`, v a running mean of P squared
    ================= ====================================================================

    with :math:`f` the ``alignment_floor``. A mapping mixes them: the log energy is the
    sum of coefficient times log energy. Magnitude, sensitivity and Fisher energies are
    relative to a reference: the objective's own mean over the shared leaves, those that
    at least two objectives reach (``scale="objective"``: invariant to rescaling a loss),
    or the mean of these over objectives (``scale="global"``). The reference is that of
    the step, never an average: an averaged one can be pumped up by spikes.

    Args:
      num_objectives: K, a Python int.
      energy: a name from the table, or a mapping from names to coefficients >= 0.
      granularity: "global", "tensor", "channel" (one block per output unit or filter,
        the last axis; a vector is one block), "element", or a function ``(path, shape)``
        to the axes that one block spans, for other layouts: ``lambda path, shape:
        tuple(range(1, len(shape)))`` where the output unit comes first.
      scale: "objective" or "global".
      weights: K loss weights >= 0, or None for ones. An objective of weight 0 takes no
        part.
      nonfinite: what to do with an objective whose gradient has a NaN or an infinity
        (or squares above the float32 range, beyond 1.8e19): "propagate" (the update is
        NaN everywhere, for ``optax.apply_if_finite`` behind it), "skip_objective" (it is
        left out in this step) or "skip_update" (the update is 0). Averages and gates are
        never touched by it; the state counts it.
      alignment_floor: f in the table, in (0, 1].
      direction_decay: decay of M in [0, 1); None to take M from the keyword argument
        ``direction`` of ``update`` (Adam's ``mu``, say) and keep none.
      moment_decay: the same for v and the keyword argument ``second_moment``.
      eps: added to relative energies before the logarithm, > 0.
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which parameters
        may be split: sums are made over their devices (numerators and denominators, not
        the quotients). Under ``jit`` leave it None: the compiler does it.
      param_specs: the parameters' ``PartitionSpec`` tree, as ``shard_map`` got it; needed
        with ``axis_name`` where a block spans some axes of a split leaf and not others
        ("channel"), to know which of them are split.

    Returns:
      A transformation whose ``update`` takes leaves ``(K, *param.shape)`` and returns
      ``AssessedUpdates``. Energies are float32 whatever the leaves' dtype. Gradients
      below about 1e-19 square to 0 in float32 and count as absent. How long spikes
      are remembered: see :func:`eagc_jax.eagc`.

    Raises:
      ValueError: bad arguments (at once); a missing objective axis, trees that differ,
        "sensitivity" without params (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import assess_energy, sum_objectives
      >>> tx = optax.chain(assess_energy(2, granularity="tensor"), sum_objectives())
      >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
      >>> grads = {"a": jnp.array([[3.0, 3.0], [1.0, 1.0]]),
      ...          "b": jnp.array([[1.0, 1.0], [1.0, 1.0]])}
      >>> _, state = tx.update(grads, tx.init(params))
      >>> optax.tree.get(state, "energies")["a"].round(2)
      Array([[1.8],
             [1. ]], dtype=float32)

    References:
      Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, 2019 (sensitivity);
      Zheng et al., `EAGC <https://arxiv.org/abs/2604.14176>`_, 2026 (the vocabulary).
    """
    number = check_num_objectives(num_objectives)
    options = _Options(
        mixture=_check_energy(energy),
        granularity=granularity,
        scale=scale,
        weights=check_weights(weights, number),
        alignment_floor=alignment_floor,
        eps=eps,
        nonfinite=nonfinite,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    _check_options(options, direction_decay, moment_decay)
    aligns = any(name in options.mixture for name in _ALIGNMENTS)
    keeps_direction = aligns and direction_decay is not None
    keeps_moment = "fisher" in options.mixture and moment_decay is not None

    def init_fn(params):
        leaves = named_leaves(params)
        layout = blocks_lib.layout_of_params(
            granularity, leaves, options.names, options.specs
        )
        zeros = layout.zeros(leaves, number)
        return AssessEnergyState(
            energies=layout.show(zeros),
            gradient_rms=layout.show_leaves(layout.leaf_means(zeros)),
            nonfinite_count=jnp.zeros((number,), jnp.int32),
            direction=jax.tree.map(_wide_zeros, params) if keeps_direction else (),
            second_moment=optax.tree.zeros_like(params, dtype=jnp.float32)
            if keeps_moment
            else (),
            count=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates, state, params=None, *, direction=None, second_moment=None, **extra_args
    ):
        del extra_args
        check_objective_axis(updates, number, params)
        check_state(state, AssessEnergyState, number, "nonfinite_count")
        known = blocks_lib.spec_of(state.gradient_rms)
        check_same_names(named_leaves(updates), known, "updates", "state")
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            nothing = jnp.ones([], jnp.float32), jnp.ones([], bool)
            return AssessedUpdates(updates, {}, {}, *nothing), state
        check_averaged(updates, params, options.names)
        kept = {"direction": keeps_direction, "second_moment": keeps_moment}
        _check_averages(state, named_leaves(updates), kept)
        step = _start(updates, options)
        count = jnp.where(step.advance, optax.safe_increment(state.count), state.count)
        new_direction, new_moment = (), ()
        if keeps_direction or keeps_moment:
            effective = _effective_update(step.updates, options.weights)
        if keeps_direction:
            direction = state.direction
            new_direction = _track(direction, effective, direction_decay, step.advance)
        if keeps_moment:
            squared = jax.tree.map(lambda p: _bounded(_square(p)), effective)
            new_moment = _track(
                state.second_moment, squared, moment_decay, step.advance
            )
            second_moment = _bias_corrected(new_moment, moment_decay, count)
        inputs = _Inputs(params, direction, second_moment)
        assessed, energies, rms = _finish(updates, step, options, inputs)
        found, kept = (blocks_lib.spec_of(e) for e in (energies, state.energies))
        check_same_shapes(found, kept, number)
        return assessed, AssessEnergyState(
            energies=select(step.advance, energies, state.energies),
            gradient_rms=select(step.advance, rms, state.gradient_rms),
            nonfinite_count=counted(state.nonfinite_count, ~step.finite),
            direction=new_direction,
            second_moment=new_moment,
            count=count,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# ---------------------------------------------------------------------------
# The assessment itself: pure functions of one step
# ---------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """What the energies other than magnitude are computed from."""

    params: Any = None
    direction: Any = None
    second_moment: Any = None


class _Step(NamedTuple):
    """The magnitudes, and what the non-finite policy made of the updates."""

    updates: Any  # leaves (K, *shape), as they go on to the gate.
    squares: dict[str, jax.Array]  # by group: mean squares, 0 where dropped.
    leaf_squares: jax.Array  # shape=(K, leaves), the same per leaf.
    finite: jax.Array  # shape=(K,), bool.
    keep: jax.Array  # shape=(K,), bool: objectives in use.
    advance: jax.Array  # shape=(), bool: whether states may change.


def assess_magnitude(
    updates: Any,
    weights: jax.Array,
    granularity: Granularity,
    names: tuple[str, ...] = (),
    specs: Any = None,
) -> AssessedUpdates:
    """The default assessment without a state, for ``soft_gate`` on its own."""
    options = _Options(
        mixture={"magnitude": 1.0},
        granularity=granularity,
        scale="objective",
        weights=weights,
        alignment_floor=0.5,
        eps=1e-8,
        nonfinite="propagate",
        names=names,
        specs=specs,
    )
    return _finish(updates, _start(updates, options), options, _Inputs())[0]


def _start(updates: Any, options: _Options) -> _Step:
    """Magnitudes first: they tell which objectives are finite, in the same pass."""
    leaves = named_leaves(updates)
    layout = _layout(leaves, options)
    wide = {n: _square(_as_float32(x)) for n, x in leaves.items()}
    squares = layout.block_means(wide)
    bad = [
        jnp.any(~jnp.isfinite(square), axis=tuple(range(1, square.ndim)))
        for square in squares.values()
    ]
    bad = [rows.astype(jnp.int32) for rows in bad]
    finite = max_leaves(bad, list(squares.values()), options.names) == 0
    if options.nonfinite == "skip_objective":
        keep, advance = finite, jnp.any(finite)
    else:
        advance = jnp.all(finite)
        keep = jnp.broadcast_to(advance, finite.shape)
    if options.nonfinite != "propagate":  # which leaves them to the gate's factor
        updates = jax.tree.map(
            lambda leaf: jnp.where(
                expand_to(keep, leaf.ndim), leaf, jnp.zeros((), leaf.dtype)
            ),
            updates,
        )
    leaf_squares = jnp.where(keep[:, None], layout.leaf_means(squares), 0.0)
    return _Step(updates, _kept(squares, keep), leaf_squares, finite, keep, advance)


def _finish(
    updates: Any, step: _Step, options: _Options, inputs: _Inputs
) -> tuple[AssessedUpdates, ByLeaf, ByLeaf]:
    """Returns (updates with log energies, energies to show, gradient RMS to show)."""
    leaves = named_leaves(updates)
    layout = _layout(leaves, options)
    statistics, by_leaf = _statistics(leaves, layout, step, options, inputs)
    takes_part = step.keep & step.advance & (options.weights > 0)
    active = {
        group: (square > 0) & expand_to(takes_part, square.ndim)
        for group, square in step.squares.items()
    }
    share = _shared_share(by_leaf["magnitude"], takes_part, layout)
    references = {kind: jnp.sum(v * share[None], axis=1) for kind, v in by_leaf.items()}
    if options.granularity == GLOBAL:
        statistics = {
            kind: {GLOBAL: value[:, None]} for kind, value in references.items()
        }
        any_energy = statistics["magnitude"][GLOBAL] > 0
        active = {**active, GLOBAL: any_energy & takes_part[:, None]}
    log_energies = {
        group: jnp.where(
            active[group],
            _log_energy(
                {kind: values[group] for kind, values in statistics.items()},
                references,
                takes_part,
                options,
            ),
            0.0,
        )
        for group in statistics["magnitude"]
    }
    energies = {
        group: jnp.where(active[group], _bounded(jnp.exp(value)), 0.0)
        for group, value in log_energies.items()
    }
    factor = jnp.where(
        step.advance | (options.nonfinite != "propagate"), 1.0, jnp.nan
    ).astype(jnp.float32)
    assessed = AssessedUpdates(step.updates, log_energies, active, factor, step.advance)
    rms = layout.show_leaves(jnp.sqrt(by_leaf["magnitude"]))
    return assessed, layout.show(energies), rms


def _layout(leaves: dict[str, jax.Array], options: _Options) -> blocks_lib.Layout:
    return blocks_lib.layout_of_updates(
        options.granularity, leaves, options.names, options.specs
    )


def _kept(values: dict[str, jax.Array], keep: jax.Array) -> dict[str, jax.Array]:
    return {
        group: jnp.where(expand_to(keep, value.ndim), value, 0.0)
        for group, value in values.items()
    }


def _statistics(
    leaves: dict[str, jax.Array],
    layout: blocks_lib.Layout,
    step: _Step,
    options: _Options,
    inputs: _Inputs,
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]:
    """What every energy is computed from, by kind: block means by group; leaf means."""
    wide = {name: _as_float32(leaf) for name, leaf in leaves.items()}
    found = {"magnitude": step.squares}
    by_leaf = {"magnitude": step.leaf_squares}

    def collect(kind, integrand):
        values = {name: integrand(name, leaf) for name, leaf in wide.items()}
        means = jax.tree.map(_bounded, layout.block_means(values))
        # The length of the running direction is the same for every objective.
        keep = jnp.ones((1,), bool) if kind == "length" else step.keep
        found[kind] = _kept(means, keep)
        by_leaf[kind] = jnp.where(keep[:, None], layout.leaf_means(means), 0.0)

    if "sensitivity" in options.mixture:
        theta = _required(inputs.params, leaves, "params", "sensitivity")
        collect("sensitivity", lambda name, leaf: _square(leaf * theta[name][None]))
    if "fisher" in options.mixture:
        moment = _required(inputs.second_moment, leaves, "second_moment", "fisher")
        moment = {n: _ridged(v, options.names) for n, v in moment.items()}
        collect("fisher", lambda name, leaf: _square(leaf) / moment[name][None])
    if any(name in options.mixture for name in _ALIGNMENTS):
        energy = next(name for name in _ALIGNMENTS if name in options.mixture)
        along = _required(inputs.direction, leaves, "direction", energy)
        collect("along", lambda name, leaf: (leaf * jnp.conj(along[name][None])).real)
        collect("length", lambda name, leaf: _square(along[name])[None])
    return found, by_leaf


def _log_energy(
    statistics: dict[str, jax.Array],
    references: dict[str, jax.Array],
    takes_part: jax.Array,
    options: _Options,
) -> jax.Array:
    """One block array of log energies ``(K, *block)``."""
    total = jnp.zeros_like(statistics["magnitude"])
    for kind, coefficient in options.mixture.items():
        if kind in _ALIGNMENTS:
            cosine = _cosine(statistics)
            share = (1 + cosine) / 2 if kind == "progress" else 1 - cosine**2
            floor = options.alignment_floor
            value = jnp.log(floor + (1 - floor) * share)
        else:
            reference = references[kind]
            if options.scale == "global":
                mean = _mean_over(reference, takes_part)
                reference = jnp.broadcast_to(mean, reference.shape)
            reference = expand_to(jnp.where(reference > 0, reference, 1.0), total.ndim)
            # A leaf that is not shared can exceed the reference by any factor.
            value = jnp.log(_bounded(statistics[kind] / reference) + options.eps)
        total = total + coefficient * value
    return total


def _cosine(statistics: dict[str, jax.Array]) -> jax.Array:
    """The cosine with the running direction, 0 where either is 0."""
    # Square roots before the product: it stays in range where the squares' would not.
    product = jnp.sqrt(statistics["magnitude"]) * jnp.sqrt(statistics["length"])
    product = jnp.where(jnp.isfinite(product), product, 0.0)
    cosine = statistics["along"] / jnp.where(product > 0, product, 1.0)
    return jnp.where(product > 0, jnp.clip(cosine, -1.0, 1.0), 0.0)


def _shared_share(
    squares: jax.Array, takes_part: jax.Array, layout: blocks_lib.Layout
) -> jax.Array:
    """Each leaf's share of the entries that at least two objectives reach, ``(leaves,)``.

    Without the restriction a big head that one objective owns would dilute that
    objective's energy in the trunk.
    """
    reaches = (squares > 0) & takes_part[:, None]
    shared = jnp.sum(reaches, axis=0, dtype=jnp.int32) >= 2
    sizes = jnp.where(shared, layout.sizes(), jnp.float32(0))
    return sizes / jnp.maximum(jnp.sum(sizes), 1.0)


def _mean_over(values: jax.Array, takes_part: jax.Array) -> jax.Array:
    """The mean of ``(K,)`` values over the objectives that take part."""
    number = jnp.maximum(jnp.sum(takes_part, dtype=jnp.int32), 1)
    return jnp.sum(jnp.where(takes_part, values, 0.0)) / number.astype(values.dtype)


def _bounded(values: jax.Array) -> jax.Array:
    """Values kept below infinity: products of finite numbers can exceed float32."""
    return jnp.minimum(values, jnp.finfo(jnp.float32).max)


# ---------------------------------------------------------------------------
# Running averages
# ---------------------------------------------------------------------------


def _wide_zeros(leaf: Any) -> jax.Array:
    """Zeros like a parameter in the dtype that averages are kept in."""
    complex_valued = jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)
    return jnp.zeros_like(leaf, dtype=jnp.complex64 if complex_valued else jnp.float32)


def _track(average: Any, value: Any, decay: Any, advance: jax.Array) -> Any:
    return jax.tree.map(
        lambda old, new: jnp.where(
            advance, (decay * old + (1 - decay) * new).astype(old.dtype), old
        ),
        average,
        value,
    )


def _effective_update(updates: Any, weights: jax.Array) -> Any:
    """The weighted sum in float32, what plain summation would apply."""

    def reduce(leaf):
        total = weighted_sum(leaf, weights)
        return total.astype(_as_float32(leaf).dtype)

    return jax.tree.map(reduce, updates)


def _bias_corrected(moment: Any, decay: Any, count: jax.Array) -> Any:
    steps = jnp.maximum(count, 1).astype(jnp.float32)
    correction = 1 - jnp.asarray(decay, jnp.float32) ** steps
    return jax.tree.map(lambda v: v / correction, moment)


def _ridged(moment: jax.Array, names: tuple[str, ...]) -> jax.Array:
    split = split_over(moment, names)
    total = jnp.sum(moment)
    total = jax.lax.psum(total, split) if split else total
    mean = total / max(moment.size * blocks_lib.axis_sizes(split), 1)
    return moment + jnp.where(mean > 0, _FISHER_RIDGE * mean, 1.0)


def _as_float32(leaf: jax.Array) -> jax.Array:
    complex_valued = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return leaf.astype(jnp.complex64 if complex_valued else jnp.float32)


def _square(leaf: jax.Array) -> jax.Array:
    """The squared modulus, real."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return leaf.real**2 + leaf.imag**2
    return leaf * leaf


# ---------------------------------------------------------------------------
# Arguments and initial state
# ---------------------------------------------------------------------------


def _required(
    tree: Any, leaves: dict[str, jax.Array], argument: str, energy: str
) -> dict[str, jax.Array]:
    if tree is None:
        raise ValueError(
            f"the energy '{energy}' needs {argument}: call update(updates, state, "
            f"params{'' if argument == 'params' else f', {argument}=...'})."
        )
    named = named_leaves(tree)
    check_same_names(leaves, named, "updates", argument)
    for name, leaf in named.items():
        if np.shape(leaf) != np.shape(leaves[name])[1:]:
            raise ValueError(
                f"leaf '{name}' of {argument} has shape {np.shape(leaf)}, expected the "
                f"parameter's, {np.shape(leaves[name])[1:]}."
            )
    return {name: _as_float32(jnp.asarray(leaf)) for name, leaf in named.items()}


def _check_averages(
    state: AssessEnergyState, leaves: dict[str, jax.Array], kept: dict[str, bool]
) -> None:
    """Raises ValueError where a state's running averages are of other energies."""
    for field, wanted in kept.items():
        found = named_leaves(getattr(state, field))
        if bool(found) != wanted:
            raise ValueError(
                f"the state keeps {'a' if found else 'no'} running '{field}', but these "
                f"energies need {'one' if wanted else 'none'}: it was made with another "
                "energy, direction_decay or moment_decay. Call init again."
            )
        if wanted:
            shapes = {name: np.shape(leaf)[1:] for name, leaf in leaves.items()}
            check_same_names(shapes, found, "updates", f"the state's {field}")
            check_same_shapes(shapes, {n: np.shape(x) for n, x in found.items()}, 1)


def _check_energy(energy: str | Mapping[str, float]) -> dict[str, float]:
    mixture = {energy: 1.0} if isinstance(energy, str) else energy
    if not isinstance(mixture, Mapping) or not mixture:
        raise ValueError(
            f"energy must be one of {ENERGIES} or a mapping from these to coefficients, "
            f"got {energy!r}."
        )
    checked = {}
    for name, coefficient in mixture.items():
        kind = _ALIASES.get(name, name)
        if kind not in ENERGIES:
            raise ValueError(f"energy must be one of {ENERGIES}, got {name!r}.")
        check_number(f"the coefficient of energy {name!r}", coefficient, NONNEGATIVE)
        checked[kind] = checked.get(kind, 0.0) + coefficient
    return checked


def _check_options(options: _Options, direction_decay: Any, moment_decay: Any) -> None:
    blocks_lib.check_granularity(options.granularity)
    check_choice("scale", options.scale, SCALES)
    check_choice("nonfinite", options.nonfinite, NONFINITE_POLICIES)
    check_number("direction_decay", direction_decay, DECAY)
    check_number("moment_decay", moment_decay, DECAY)
    floors = Interval(0, 1, with_low=False)
    check_number("alignment_floor", options.alignment_floor, floors)
    check_number("eps", options.eps, POSITIVE)
