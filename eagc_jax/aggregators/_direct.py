"""Aggregators that look at losses, or at the gradients themselves.

Where a weighting of the Gram matrix goes through ``_base.from_weighting``, a method here
is two functions: ``init(params)`` for its own state, and ``apply(step, state)``, which
returns loss weights ``(K,)`` or a reduced tree, and its state. ``from_method`` adds what
all of them share: checks, ``active_mask``, the non-finite policies, preference, length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    NONFINITE_POLICIES,
    Nonfinite,
    check_choice,
    check_mask,
    check_num_objectives,
    check_objective_axis,
    check_preference,
)
from eagc_jax._shards import AxisName, check_averaged, check_axis_name
from eagc_jax._states import check_state
from eagc_jax._trees import counted, increment, select, widened
from eagc_jax.aggregators import _arithmetic
from eagc_jax.aggregators._base import RESCALES
from eagc_jax.aggregators._base.options import Rescale
from eagc_jax.aggregators._signature import shows_options_of
from eagc_jax.gram import row_norms
from eagc_jax.objectives import expand_to
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


class DirectOptions(TypedDict, total=False):
    """The options that these methods share."""

    preference: Sequence[float] | jax.typing.ArrayLike | None
    rescale: Rescale
    nonfinite: Nonfinite
    axis_name: AxisName


class DirectState(NamedTuple):
    """What a method applied last, and what it remembers."""

    # shape=(K,), float32: the loss weights of the last step, or () for a method whose
    # update isn't a weighted sum.
    weights: jax.Array | tuple[()]
    nonfinite_count: jax.Array  # shape=(K,), int32: steps with a NaN or an infinity.
    count: jax.Array  # shape=(), int32: steps that were not skipped.
    method: OptState  # the method's own state, or ().


class Step(NamedTuple):
    """What a method sees of one step.

    Gradients are those of :meth:`rows`, :meth:`masked` or :meth:`weighted`: in float32 or
    wider, multiplied by the preference where the method doesn't return weights, zeros
    where an objective doesn't take part.
    """

    updates: Updates  # leaves (K, *shape) as they came: absent objectives' may be NaN.
    active: jax.Array  # shape=(K,), bool: who takes part.
    advance: jax.Array  # shape=(), bool: whether the state may change in this step.
    factors: jax.Array | None  # shape=(K,), float32: of the gradients; None for ones.
    values: jax.Array  # shape=(K,), float32: losses, 1 where not active.
    seen: PyTree  # what the method's ``look`` returned, of the updates as they came.
    extra: dict[str, PyTree]  # further keyword arguments of ``update``.
    names: tuple[str, ...]  # mesh axes over which shard_map may have split leaves.

    def rows(self, leaf: jax.Array) -> list[jax.Array]:
        """The K gradients of one leaf of ``updates``, each ``(*shape)``.

        What is made of rows entry by entry is one pass on CPU; XLA would write out a
        ``(K, *shape)`` that more than a few of its own slices are taken from.
        """
        found = _arithmetic.rows(leaf)
        if self.factors is not None:
            factors = self.factors.astype(found[0].dtype)
            found = [row * factors[k] for k, row in enumerate(found)]
        return [jnp.where(self.active[k], row, 0) for k, row in enumerate(found)]

    def masked(self, leaf: jax.Array) -> jax.Array:
        """The K gradients of one leaf of ``updates``, ``(K, *shape)``."""
        wide = widened(leaf)
        if self.factors is not None:
            wide = wide * _arithmetic.per_objective(self.factors, wide)
        return jnp.where(expand_to(self.active, wide.ndim), wide, 0)

    def weighted(self, weights: jax.Array) -> PyTree:
        """The tree ``sum_k w_k g_k``."""
        return jax.tree.map(
            lambda leaf: _arithmetic.weighted(self.rows(leaf), weights), self.updates
        )

    def norms(self) -> jax.Array:
        """``(K,)`` float32, of the gradients; where ``look`` is :func:`look_at_norms`."""
        norms = self.seen if self.factors is None else self.seen * self.factors
        return jnp.where(self.active, norms, 0).astype(jnp.float32)


def look_at_norms(
    updates: Updates, mask: jax.Array, names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """The norms of K gradients, ``(K,)``, and who is finite or not in the mask."""
    return row_norms(jax.tree.leaves(updates), mask, names)


class Method(NamedTuple):
    """A method and how its updates scale."""

    name: str
    convention: (
        str  # "sum", "mean", "convex" or "unit", as in ``_weighting.Weighting``.
    )
    init: Callable[[Params], OptState]  # params -> the method's own state.
    # (step, own state) -> (weights (K,), or a reduced tree in float32; own state).
    apply: Callable[[Step, OptState], tuple[PyTree, OptState]]
    weighs: bool = True  # whether ``apply`` returns weights.
    needs_values: bool = False
    # The first pass over (updates, mask, mesh axes) -> (what it saw, who is finite).
    look: Callable[[Updates, jax.Array, tuple[str, ...]], tuple[PyTree, jax.Array]] = (
        look_at_norms
    )
    # Whether ``apply`` itself keeps the state where the step doesn't advance: another
    # pass over a state as large as the gradients is saved.
    keeps: bool = False


def from_method(
    num_objectives: int,
    method: Method,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    rescale: Rescale = "native",
    nonfinite: Nonfinite = "propagate",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""An aggregator from a method on losses or full gradients.

    Args:
      num_objectives: K, a Python int.
      method: the method.
      preference: K numbers >= 0: objective k's gradient is multiplied by them, divided
        by their mean over the active objectives. None for ones.
      rescale: the length of the update: "native", "sum", "mean" (a constant factor; for
        methods whose length isn't the gradients', the norm of the mean, times K for
        "sum"), or "norm_of_mean" (that of the preference-weighted mean always).
      nonfinite: an objective with a NaN or an infinity in its gradient or loss:
        "propagate" (the update is NaN everywhere, the state stays), "skip_objective" (it
        is left out of this step), "skip_update" (the update is 0, the state stays).
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which parameters
        may be split: norms and inner products are summed over their devices. Losses and
        gradients are averaged over the axes that split the batch before they come here.
        Under ``jit`` leave it None: the compiler does it.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``, in the leaves' dtype;
      its state is a :class:`DirectState`. ``update`` takes the keyword arguments
      ``value``, the K losses, where the method needs them, and ``active_mask``, ``(K,)``
      bool, False for objectives that this batch doesn't have.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).
    """
    number = check_num_objectives(num_objectives)
    ratios = check_preference(preference, number)
    _check_options(rescale, nonfinite)
    names = check_axis_name(axis_name)

    def init_fn(params: Params) -> DirectState:
        return DirectState(
            weights=jnp.zeros((number,), jnp.float32) if method.weighs else (),
            nonfinite_count=jnp.zeros((number,), jnp.int32),
            count=jnp.zeros([], jnp.int32),
            method=method.init(params),
        )

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        active_mask: jax.typing.ArrayLike | None = None,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState]:
        check_objective_axis(updates, number, params)
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            return updates, state
        check_averaged(updates, params, names)
        _check_state(state, method, updates, number)
        values = jnp.zeros((number,), jnp.float32)
        if method.needs_values:
            values = required_values(value, number, method.name)
        mask = check_mask(active_mask, number)
        seen, finite = method.look(updates, mask, names)
        finite = (finite & jnp.isfinite(values)) | ~mask
        active, all_finite = mask & finite, jnp.all(finite)
        enough = finite if nonfinite == "skip_objective" else all_finite
        factors = _normalised(ratios, active)
        step = Step(
            updates=updates,
            active=active,
            advance=jnp.any(mask & enough),
            factors=None if method.weighs or preference is None else factors,
            values=jnp.where(active, values, 1.0),
            seen=seen,
            extra=extra_args,
            names=names,
        )
        result, own = method.apply(step, state.method)
        weights: PyTree = ()
        if method.weighs:
            weights = jnp.where(active, result * factors, 0.0)
            result = step.weighted(weights)
        length = _length_factor(result, step, factors, method, rescale)
        if method.weighs:
            weights = weights if length is None else weights * length
            weights = weights.astype(jnp.float32)
            weights = jnp.where(step.advance, weights, state.weights)
        fill = jnp.where(all_finite | (nonfinite != "propagate"), 0.0, jnp.nan)

        def emit(total, leaf):
            total = total if length is None else total * length.astype(total.dtype)
            fill_as = fill.astype(total.dtype)
            return jnp.where(step.advance, total, fill_as).astype(leaf.dtype)

        if not method.keeps:
            own = select(step.advance, own, state.method)
        missed = counted(state.nonfinite_count, ~finite)
        steps = increment(state.count)
        count = jnp.where(step.advance, steps, state.count)
        new = DirectState(weights, missed, count, own)
        return jax.tree.map(emit, result, updates), new

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# ---------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------


shows_options = shows_options_of(from_method)


def required_values(
    value: jax.typing.ArrayLike | None, number: int, name: str
) -> jax.Array:
    """The losses as ``(K,)`` float32.

    Raises:
      ValueError: there are none, or not K of them.
    """
    example = (
        f"update(updates, state, params, value=losses), losses of shape ({number},)"
    )
    if value is None:
        raise ValueError(f"{name} needs the losses: call {example}.")
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(value)]
    if len(leaves) == 1 and leaves[0].shape == (number,):
        return leaves[0].astype(jnp.float32)
    if len(leaves) != number or any(leaf.shape != () for leaf in leaves):
        raise ValueError(
            f"value must hold one loss for each of the {number} objectives, an array of "
            f"shape ({number},) or {number} scalars; got shapes "
            f"{[leaf.shape for leaf in leaves]}. {name} needs the losses: call {example}."
        )
    return jnp.stack([leaf.astype(jnp.float32) for leaf in leaves])


def _check_options(rescale: Rescale, nonfinite: Nonfinite) -> None:
    check_choice("rescale", rescale, RESCALES)
    check_choice("nonfinite", nonfinite, NONFINITE_POLICIES)


def _check_state(
    state: OptState, method: Method, updates: Updates, number: int
) -> None:
    """Raises ValueError for a state of another method, K, tree or version."""
    check_state(state, DirectState, number, "nonfinite_count")
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), updates)
    expected = jax.eval_shape(method.init, params)
    kinds = type(state.method).__name__, type(expected).__name__
    shapes = [
        [jnp.shape(leaf) for leaf in jax.tree.leaves(own)]
        for own in (state.method, expected)
    ]
    if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
        raise ValueError(
            f"the state isn't one of {method.name} for these updates: its part 'method' "
            f"is a {kinds[0]} with leaves of shapes {shapes[0][:5]}, where init makes a "
            f"{kinds[1]} with {shapes[1][:5]}. It is of another method, tree or number "
            "of objectives, or an older version's: call init again."
        )


def check_real(updates: Updates, name: str) -> None:
    """Raises ValueError on complex leaves, whose entries have no sign or order."""
    for leaf in jax.tree.leaves(updates):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"{name} works entry by entry on real leaves, got complex."
            )


# ---------------------------------------------------------------------------
# One step
# ---------------------------------------------------------------------------


def _normalised(ratios: jax.Array, active: jax.Array) -> jax.Array:
    """The preference over its mean among the active, ``(K,)``."""
    kept = jnp.where(active, ratios, 0.0)
    number = jnp.sum(active, dtype=jnp.int32).astype(jnp.float32)
    total = jnp.sum(kept)
    return kept * number / jnp.where(total > 0, total, 1.0)


def _length_factor(
    result: PyTree,
    step: Step,
    factors: jax.Array,
    method: Method,
    rescale: Rescale,
) -> jax.Array | None:
    """What the update is multiplied by, or None for 1."""
    number = jnp.maximum(jnp.sum(step.active, dtype=jnp.int32), 1).astype(jnp.float32)
    own = "mean" if method.convention == "convex" else method.convention
    if rescale in ("native", own):
        return None
    if rescale != "norm_of_mean" and own != "unit":
        return number if rescale == "sum" else 1.0 / number
    # Where factors are in the step's gradients, they aren't applied a second time.
    mean = step.weighted(factors if step.factors is None else jnp.ones_like(factors))
    target = _arithmetic.tree_norm(mean, step.names) / number
    found = _arithmetic.tree_norm(result, step.names)
    target = target * number if rescale == "sum" else target
    return jnp.where(found > 0, target / jnp.where(found > 0, found, 1.0), 1.0)
