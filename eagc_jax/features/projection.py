"""Elastic projection of parameter gradients, a soft PCGrad, for Optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONNEGATIVE,
    check_choice,
    check_num_objectives,
    check_number,
    check_objective_axis,
    check_position,
    check_same_names,
)
from eagc_jax._shards import (
    AxisName,
    alike,
    check_averaged,
    check_axis_name,
    max_each,
    max_leaves,
)
from eagc_jax._states import check_like, check_state
from eagc_jax._trees import (
    compute_dtype,
    counted,
    named_leaves,
    named_specs,
    select,
    wide_zeros,
    widened,
)
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity, Layout
from eagc_jax.objectives import AssessedUpdates, expand_to

_ENERGIES = ("running", "current", None)


class ElasticProjectionState(NamedTuple):
    """What was decided last, and the averages behind it."""

    weights: ByLeaf  # by leaf: w in force, shape=(K, *block), float32; 0 if supervised.
    energies: ByLeaf  # by leaf: e, shape=(K, *block), float32 in [0, 1]; 0 if unknown.
    average: dict[
        str, jax.Array
    ]  # by group of blocks: biased average of the supervised
    # objective's e, shape=(1, blocks), float32. Empty unless energy="running".
    visits: dict[str, jax.Array]  # shape=(1, blocks), int32: steps that fed it.
    direction: Any  # like params, at least float32: running mean of the supervised
    # gradient; () unless energy="running".
    count: jax.Array  # shape=(), int32: steps with finite gradients.


class _Options(NamedTuple):
    supervised: int
    eep_weight: Any
    max_projection: Any
    only_conflict: bool
    energy: str | None
    direction_decay: Any
    reference_decay: Any
    names: tuple[str, ...] = ()  # mesh axes over which shard_map may have split leaves.
    specs: Any = None


def elastic_projection(
    num_objectives: int,
    *,
    supervised: int = 0,
    eep_weight: jax.typing.ArrayLike = 0.5,
    granularity: Granularity = "tensor",
    only_conflict: bool = False,
    energy: str | None = "running",
    max_projection: jax.typing.ArrayLike | None = 1.0,
    direction_decay: jax.typing.ArrayLike = 0.9,
    reference_decay: jax.typing.ArrayLike = 0.95,
    axis_name: AxisName = None,
    param_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes a share of the supervised direction out of the other objectives' gradients.

    The published coordinator (:func:`eagc_jax.features.coordinate`) at the parameters,
    without a conceptor. Per block, with s the supervised objective and k any other:

    .. math::

      g_k &\leftarrow g_k - w_k \frac{\langle g_k, g_s \rangle}{\lVert g_s \rVert^2} g_s
      \\ w_k &= \min(\lambda_p\,\mathrm{clip}(1 - e_k / \mu, 0, 1),\ w_{max}) \\
      e_k &= \cos^2(g_k, d), \qquad \mu = \text{running mean of } e_s

    There a feature's energy is its share in the subspace of labeled features, and
    :math:`\mu` that of a labeled feature. Here the subspace is the supervised
    objective's running direction d (of the steps before), a conceptor of rank one, and
    :math:`\mu` the share that a supervised gradient itself has there: low where these
    are noisy. So, as in the paper, what is foreign to the supervised subspace moves less
    inside it, and what lies in it as much as the supervised gradient does is left alone:
    it learns the same. The supervised gradient never changes. In the first step, and
    where a block has had no supervised gradient, nothing is projected.

    With ``energy=None`` the weight is :math:`\min(\lambda_p, w_{max})`; then
    ``eep_weight=1, only_conflict=True`` is PCGrad's projection of all others against
    the supervised gradient, one-sided and without its random order (A-GEM).

    Put it first in the chain, before ``eagc()`` or an aggregator; leaves come and go as
    ``(K, *shape)``. Two or three passes over the gradients; memory for
    ``energy="running"``: one float32 copy of the parameters.

    Args:
      num_objectives: K, a Python int.
      supervised: the objective s.
      eep_weight: lambda_p >= 0.
      granularity: what a block is: "global", "tensor", "channel" or a function, as in
        :func:`eagc_jax.assess_energy`.
      only_conflict: whether to project only where :math:`\langle g_k, g_s \rangle < 0`.
      energy: "running", as above; "current", with d the supervised gradient of this
        step, so that :math:`\mu = 1` and :math:`1 - e_k / \mu` is the squared sine of
        the angle, and nothing is remembered; None for no energy.
      max_projection: :math:`w_{max}`; above 1 the component changes its sign. None for
        no cap.
      direction_decay: decay of d in [0, 1).
      reference_decay: decay of mu in [0, 1); averages are bias-corrected.
      axis_name: as in :func:`eagc_jax.assess_energy`.
      param_specs: the same.

    Returns:
      A transformation from leaves ``(K, *shape)`` to the same. Where gradients are not
      finite they pass as they are, and averages keep their values.

    Raises:
      ValueError: bad arguments (at once); updates without an objective axis or behind
        ``assess_energy`` (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import elastic_projection, sum_objectives
      >>> project = elastic_projection(2, eep_weight=1.0, energy=None, only_conflict=True)
      >>> tx = optax.chain(project, sum_objectives(), optax.sgd(1.0))
      >>> params = {"w": jnp.zeros(2)}
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-3.0, 1.0]])}  # they conflict
      >>> tx.update(grads, tx.init(params), params)[0]["w"]
      Array([-1., -1.], dtype=float32)

    References:
      EAGC, CVPR 2026, arXiv 2604.14176, for EEP at features; Yu et al., *Gradient surgery
      for multi-task learning*, 2020; Chaudhry et al., *Efficient lifelong learning with
      A-GEM*, 2019.
    """
    number = check_num_objectives(num_objectives)
    options = _Options(
        supervised=check_position("supervised", supervised, number),
        eep_weight=eep_weight,
        max_projection=max_projection,
        only_conflict=only_conflict,
        energy=energy,
        direction_decay=direction_decay,
        reference_decay=reference_decay,
        names=check_axis_name(axis_name),
        specs=named_specs(param_specs),
    )
    _check_options(options, granularity)

    def init_fn(params):
        return _initial_state(params, number, granularity, options)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if isinstance(updates, AssessedUpdates):
            raise ValueError(
                "elastic_projection got what assess_energy returns: put it before "
                "assess_energy (or eagc), so that energies are those of what is applied."
            )
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            return updates, state
        check_objective_axis(updates, number, params)
        leaves = named_leaves(updates)
        check_averaged(updates, params, options.names)
        layout = blocks_lib.layout_of_updates(
            granularity, leaves, options.names, options.specs
        )
        check_state(state, ElasticProjectionState, number, "weights")
        shown, kept = dict(layout.shown_spec()), blocks_lib.spec_of(state.weights)
        check_same_names(shown, kept, "updates", "state")
        check_like(state, init_fn, jax.tree.map(lambda leaf: leaf[0], updates))
        direction = named_leaves(state.direction)
        found = _measure(leaves, direction, layout, options)
        squares = list(found.square.values())
        bad = [jnp.any(~jnp.isfinite(x)).astype(jnp.int32) for x in squares]
        advance = max_leaves(bad, squares, options.names) == 0
        energies, mu, average, visits = _energies(found, state, advance, options)
        weights = {
            group: _weight(found.inner[group], energies[group], mu[group], options)
            for group in energies
        }
        coefficients = {
            group: _coefficient(weights[group], found, group, options)
            for group in weights
        }
        by_leaf = _by_leaf(coefficients, layout)
        projected = [
            _project(leaf, by_leaf[name], found.units[name], options.supervised)
            for name, leaf in leaves.items()
        ]
        shown = layout.show(weights), layout.show(energies)
        state = ElasticProjectionState(
            weights=select(advance, shown[0], state.weights),
            energies=select(advance, shown[1], state.energies),
            average=average,
            visits=visits,
            direction=_track(updates, state.direction, advance, options),
            count=jnp.where(advance, optax.safe_increment(state.count), state.count),
        )
        return jax.tree.unflatten(jax.tree.structure(updates), projected), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# ---------------------------------------------------------------------------
# What is measured, by group of blocks
# ---------------------------------------------------------------------------


class _Found(NamedTuple):
    """Means over blocks, of gradients in units of their largest entry."""

    square: dict[str, jax.Array]  # <g_k, g_k>, (K, blocks).
    inner: dict[str, jax.Array]  # <g_k, g_s>, (K, blocks).
    along: dict[str, jax.Array]  # <g_k, d>, (K, blocks).
    length: dict[str, jax.Array]  # <d, d>, (1, blocks).
    units: dict[str, jax.Array]  # by leaf: (K,).


def _measure(
    leaves: dict[str, jax.Array],
    direction: dict[str, jax.Array],
    layout: Layout,
    options: _Options,
) -> _Found:
    wide = {n: widened(leaf) for n, leaf in leaves.items()}
    everything = layout.granularity == GLOBAL
    units = _units(wide, everything, options.names)
    scaled = {n: leaf / expand_to(units[n], leaf.ndim) for n, leaf in wide.items()}
    own = {n: leaf[options.supervised][None] for n, leaf in scaled.items()}
    if options.energy == "running":
        along = {n: direction[n].astype(leaf.dtype)[None] for n, leaf in wide.items()}
        lengths = _units(along, everything, options.names)
        along = {n: d / expand_to(lengths[n], d.ndim) for n, d in along.items()}
    else:
        along = own

    def collect(left, right):
        groups = layout.block_means({n: _product(left[n], right[n]) for n in leaves})
        if everything:
            sums = layout.leaf_means(groups) * layout.sizes()[None]
            return {GLOBAL: jnp.sum(sums, axis=1, keepdims=True)}
        return groups

    return _Found(
        square=collect(scaled, scaled),
        inner=collect(scaled, own),
        along=collect(scaled, along),
        length=collect(along, along),
        units=units,
    )


def _units(
    leaves: dict[str, jax.Array], everything: bool, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Each objective's largest entry, in the leaf or in all."""
    largest = {
        name: jnp.max(
            jnp.abs(leaf), axis=tuple(range(1, leaf.ndim)), initial=0.0
        ).astype(compute_dtype(leaf.real.dtype))
        for name, leaf in leaves.items()
    }
    largest = max_each(largest, leaves, names)
    if everything:
        overall = jnp.max(jnp.stack(alike(list(largest.values()))), axis=0)
        # In the leaf's dtype, which may be narrower: inside its range.
        largest = {
            n: jnp.minimum(overall, float(jnp.finfo(x.dtype).max)).astype(x.dtype)
            for n, x in largest.items()
        }
    return {name: jnp.where(x == 0, 1.0, x) for name, x in largest.items()}


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """The real inner product's terms, also of complex numbers."""
    return (left * jnp.conj(right)).real


# ---------------------------------------------------------------------------
# Energies, weights, coefficients
# ---------------------------------------------------------------------------


def _energies(
    found: _Found, state: ElasticProjectionState, advance: jax.Array, options: _Options
) -> tuple[dict, dict, dict, dict]:
    """(energies (K, blocks), mu (1, blocks), average, visits), by group."""
    energies, mu = {}, {}
    average, visits = dict(state.average), dict(state.visits)
    s = options.supervised
    for group, square in found.square.items():
        # Roots before the product: it stays in range where the squares' would not.
        size = jnp.sqrt(square) * jnp.sqrt(found.length[group])
        cosine = found.along[group] / jnp.where(size > 0, size, 1.0)
        energies[group] = jnp.where(size > 0, jnp.minimum(cosine**2, 1.0), 0.0)
        if options.energy != "running":
            mu[group] = jnp.where(square[s : s + 1] > 0, 1.0, 0.0)
            continue
        seen = (size[s : s + 1] > 0) & advance
        decay = jnp.asarray(options.reference_decay, jnp.float32)
        new = decay * average[group] + (1 - decay) * energies[group][s : s + 1]
        average[group] = jnp.where(seen, new, average[group])
        visits[group] = counted(visits[group], seen)
        correction = 1 - decay ** visits[group].astype(jnp.float32)
        mu[group] = average[group] / jnp.where(visits[group] > 0, correction, 1.0)
    return energies, mu, average, visits


def _weight(
    inner: jax.Array, energy: jax.Array, mu: jax.Array, options: _Options
) -> jax.Array:
    """``(K, blocks)``: w, 0 for the supervised objective."""
    if options.energy is None:
        outside = jnp.ones_like(energy)
    else:
        ratio = energy / jnp.where(mu > 0, mu, 1.0)
        outside = jnp.where(mu > 0, jnp.clip(1 - ratio, 0.0, 1.0), 0.0)
    weight = jnp.asarray(options.eep_weight, jnp.float32) * outside
    if options.max_projection is not None:
        weight = jnp.minimum(weight, jnp.asarray(options.max_projection, jnp.float32))
    if options.only_conflict:
        weight = jnp.where(inner < 0, weight, 0.0)
    other = jnp.arange(inner.shape[0]) != options.supervised
    return jnp.where(expand_to(other, inner.ndim), weight, 0.0)


def _coefficient(
    weight: jax.Array, found: _Found, group: str, options: _Options
) -> jax.Array:
    """How often the supervised gradient is taken off; 0 where it isn't finite."""
    square = found.square[group][options.supervised][None]
    share = found.inner[group] / jnp.where(square > 0, square, 1.0)
    coefficient = jnp.where(weight > 0, weight * share, 0.0)
    return jnp.where(jnp.isfinite(coefficient), coefficient, 0.0)


def _by_leaf(groups: dict[str, jax.Array], layout: Layout) -> dict[str, jax.Array]:
    if layout.granularity == GLOBAL:
        return dict.fromkeys(layout.axes, groups[GLOBAL][:, 0])
    return layout.scatter(groups)


def _project(
    leaf: jax.Array, coefficient: jax.Array, units: jax.Array, supervised: int
) -> jax.Array:
    wide = widened(leaf)
    own = wide[supervised][None] / units[supervised].astype(wide.dtype)
    factor = expand_to(coefficient, leaf.ndim).astype(wide.dtype)
    unit = expand_to(units, leaf.ndim).astype(wide.dtype)
    # Where nothing is taken off the gradient stays as it is, to the last bit, whatever
    # the supervised one is: 0 * NaN would not be 0.
    off = jnp.where(factor != 0, factor * own * unit, 0.0)
    return (wide - off).astype(leaf.dtype)


# ---------------------------------------------------------------------------
# State and arguments
# ---------------------------------------------------------------------------


def _initial_state(
    params: Any, number: int, granularity: Granularity, options: _Options
) -> ElasticProjectionState:
    named = named_leaves(params)
    layout = blocks_lib.layout_of_params(
        granularity, named, options.names, options.specs
    )
    running = options.energy == "running"
    shown = layout.show(layout.zeros(named, number))
    one = layout.zeros(named, 1) if running else {}
    if running and granularity == GLOBAL:
        one = {GLOBAL: jnp.zeros((1, 1), jnp.float32)}
    return ElasticProjectionState(
        weights=shown,
        energies=jax.tree.map(jnp.zeros_like, shown),
        average=one,
        visits={g: jnp.zeros_like(x, dtype=jnp.int32) for g, x in one.items()},
        direction=wide_zeros(params) if running else (),
        count=jnp.zeros((), jnp.int32),
    )


def _track(updates: Any, direction: Any, advance: jax.Array, options: _Options) -> Any:
    if options.energy != "running":
        return ()

    def track(old, leaf):
        decay = jnp.asarray(options.direction_decay).astype(old.real.dtype)
        new = decay * old + (1 - decay) * leaf[options.supervised].astype(old.dtype)
        return jnp.where(advance, new, old)

    return jax.tree.map(track, direction, updates)


def _check_options(options: _Options, granularity: Granularity) -> None:
    blocks_lib.check_granularity(granularity)
    if granularity == "element":
        raise ValueError(
            "granularity 'element' gives blocks of one entry, which have no direction to "
            "project along; use 'global', 'tensor' or 'channel'."
        )
    check_choice("energy", options.energy, _ENERGIES)
    check_number("eep_weight", options.eep_weight, NONNEGATIVE)
    check_number("max_projection", options.max_projection, NONNEGATIVE)
    check_number("direction_decay", options.direction_decay, DECAY)
    check_number("reference_decay", options.reference_decay, DECAY)
