"""The steps of a probe: batch after batch, trained on the plain sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import concrete
from eagc_jax._trees import compute_dtype, named_leaves
from eagc_jax.diagnostics.probing.applying import Applied, apply
from eagc_jax.diagnostics.probing.measuring import Measured, measure
from eagc_jax.diagnostics.probing.report import AppliedReport, ProbeReport
from eagc_jax.gradients import value_and_grads
from eagc_jax.gradients._common import as_vector
from eagc_jax.typing import Inputs, OptState, Params, PyTree

_AT_MOST = 100  # steps, where none are asked for: batches may never end
_SHARE = 0.02  # of a run's steps, where these are told
_FIRST = 1  # values that say something of a step and the one before: step 0 has none


def probe(
    losses_fn: Callable[[Params, Inputs], PyTree],
    params: Params,
    batches: Iterable[Inputs],
    *,
    optimizer: optax.GradientTransformation | float | None = None,
    opt_state: OptState = None,
    steps: int | None = None,
    run_steps: int | None = None,
    names: Sequence[str] | None = None,
) -> ProbeReport:
    r"""Measures how the objectives' gradients stand to each other while you train.

    In every step, of the K gradients :math:`g_k` and their sum :math:`s = \sum_k g_k`:

    .. math:: \cos(g_j, g_k), \qquad \|g_k\|, \qquad \cos(s, g_k), \qquad
        \max_{\|d\| = 1} \min_k \cos(d, g_k).

    Where :math:`\cos(s, g_k) < 0` a small step on the plain sum *increases* loss k. The
    last is the best that any aggregator could do for the objective that gains least; 0
    where the gradients cancel in some convex combination, and then no direction lowers
    all losses. And of two steps in a row, the cosines between one's gradients and the
    other's: batches share no noise, so what remains is what the objectives themselves
    do.

    ``print(probe(...))`` shows a table and says in plain sentences what was found and
    what to do; the rules with their thresholds are in :class:`ProbeReport`.

    Cost: a step has one forward pass, K backward passes and some five passes over the
    gradients; two sets of K gradients are in memory. With an optimizer two more forward
    passes, K + 2 updates of the optimizer, and three sets. One compilation, if all
    batches have the same shapes.

    Args:
      losses_fn: ``losses_fn(params, batch)`` returns the losses: an array ``(K,)``, or
        a tuple, list or dict of K scalars. With your loss weights in them, if you have
        any.
      params: any pytree of floating-point arrays. Those of the start say little of the
        later training: probe again further on.
      batches: an iterable of batches, each any pytree; ``[batch] * 5`` for one batch.
      optimizer: an Optax optimizer, or a learning rate for gradient descent, that trains
        on the plain sum while it is measured; None measures at fixed ``params``.
        Without an aggregator: it gets one gradient.
      opt_state: of a run that has come to ``params``; None for the optimizer's first.
      steps: at most so many batches are used; None for all, but no more than 100.
      run_steps: how many steps the whole training has: at most 2 % of them are measured
        (and at least 2).
      names: of the objectives, K strings in the order of the losses; None for the keys
        of a dict (sorted, as JAX has them), else "0", "1", ...

    Returns:
      A ``ProbeReport`` of NumPy arrays.

    Raises:
      ValueError: no batch, bad ``steps``, ``run_steps`` or ``names``, an ``opt_state``
        without an optimizer, losses that are not K scalars.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import diagnostics
      >>> def losses_fn(w, batch):  # gradients (4, 0) and (3, 3)
      ...     return {"a": 4 * w[0] + batch, "b": 3 * w[0] + 3 * w[1] + batch}
      >>> found = diagnostics.probe(losses_fn, jnp.array([0.0, 1.0]), [1.0, 2.0, 3.0])
      >>> round(float(found.cosines[0, 0, 1]), 3)
      0.707
      >>> found.increased.mean(axis=0).tolist()  # share of steps, a and b
      [0.0, 0.0]
      >>> print(found.advice[0])
      The plain sum increased no objective in 100 % of 3 steps: summing is fine.
    """
    number = _number_of_steps(steps, run_steps)
    optimizer = _optimizer(optimizer)
    if optimizer is None and opt_state is not None:
        raise ValueError("opt_state was given without an optimizer: give both.")
    # Without weak types, which the first update would take off: one compilation.
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype=jnp.result_type(p)), params)
    step, carry, found_names, rows = _compiled(losses_fn, optimizer), None, (), []
    for batch in itertools.islice(batches, number):
        if carry is None:
            found_names = _names(names, jax.eval_shape(losses_fn, params, batch))
            carry = _start(params, optimizer, opt_state, len(found_names))
        carry, measured = step(carry, batch)
        rows.append(jax.tree.map(np.asarray, measured))
    if not rows:
        raise ValueError(
            "batches is empty: pass at least one batch. (A generator that was used "
            "before is at its end.)"
        )
    table = jax.tree.map(lambda *values: np.stack(values), *rows)
    raw = _but_for_the_first(table.raw, "cosines_across", "progress_across")
    applied = None
    if table.applied is not None:
        changes = {"change": table.change, "next_change": table.next_change[_FIRST:]}
        applied = AppliedReport(**table.applied._asdict(), **changes)
    return ProbeReport(
        names=found_names,
        layers=tuple(named_leaves(params)),
        **raw,
        trained=optimizer is not None,
        gradient_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        applied=applied,
    )


class _Row(NamedTuple):
    """What one step says."""

    raw: Measured
    applied: Applied | None = None
    change: jax.Array | None = None  # (K,), of the losses on the batch
    next_change: jax.Array | None = None  # (K,), by the step before, on this batch


class _Carry(NamedTuple):
    params: Params
    opt_state: OptState
    units: (
        PyTree  # leaves (K, *shape), float32: the last step's gradients, of length 1.
    )
    before: Params  # the parameters that the last step started from.


def _start(
    params: Params,
    optimizer: optax.GradientTransformation | None,
    opt_state: OptState,
    number: int,
) -> _Carry:
    def zeros(leaf):
        return jnp.zeros((number, *leaf.shape), compute_dtype(leaf.dtype))

    units = jax.tree.map(zeros, params)
    if optimizer is None:
        return _Carry(params, None, units, None)
    state = optimizer.init(params) if opt_state is None else opt_state
    return _Carry(params, state, units, params)


def _compiled(
    losses_fn: Callable[[Params, Inputs], PyTree],
    optimizer: optax.GradientTransformation | None,
) -> Callable[[_Carry, Inputs], tuple[_Carry, _Row]]:
    def losses_at(params, batch):
        return as_vector(losses_fn(params, batch))

    @jax.jit
    def step(carry, batch):
        params = carry.params
        losses, gradients = value_and_grads(losses_fn)(params, batch)
        losses = as_vector(losses)
        raw, units = measure(losses, gradients, carry.units)
        if optimizer is None:
            return carry._replace(units=units), _Row(raw)
        update, state, applied = apply(
            optimizer, gradients, units, raw.norms, carry.opt_state, params
        )
        after = optax.apply_updates(params, update)
        row = _Row(
            raw,
            applied,
            change=losses_at(after, batch) - losses,
            next_change=losses - losses_at(carry.before, batch),
        )
        return _Carry(after, state, units, params), row

    return step


def _but_for_the_first(measured: NamedTuple, *names: str) -> dict[str, np.ndarray]:
    """The fields; of those named, without step 0."""
    fields = measured._asdict()
    return fields | {name: fields[name][_FIRST:] for name in names}


def _number_of_steps(steps: int | None, run_steps: int | None) -> int:
    for name, value in (("steps", steps), ("run_steps", run_steps)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"{name} must be an int >= 1 or None, got {value!r}.")
    number = _AT_MOST if steps is None else int(steps)
    if run_steps is None:
        return number
    return min(number, max(int(_SHARE * run_steps), 2))


def _is_transformation(value: object) -> TypeGuard[optax.GradientTransformation]:
    return hasattr(value, "update")


def _optimizer(
    optimizer: optax.GradientTransformation | float | None,
) -> optax.GradientTransformation | None:
    if optimizer is None or _is_transformation(optimizer):
        return optimizer
    rate = None if isinstance(optimizer, str) else concrete(optimizer)
    if rate is None or rate.shape != () or not np.isfinite(rate):
        raise ValueError(
            "optimizer must be an optax.GradientTransformation, a learning rate or None; "
            f"got {optimizer!r}."
        )
    return optax.sgd(float(rate))


def _names(names: Sequence[str] | None, losses: PyTree) -> tuple[str, ...]:
    """K names, in the order in which JAX flattens the losses."""
    number = jax.eval_shape(as_vector, losses).shape[0]
    if names is None and isinstance(losses, dict):
        return tuple(str(name) for name in sorted(losses))
    if names is None:
        return tuple(str(index) for index in range(number))
    if isinstance(names, str) or len(names) != number or len(set(names)) != number:
        raise ValueError(
            f"names must be {number} different strings, one for each loss; got {names!r}."
        )
    return tuple(str(name) for name in names)


def _nonzero(values: jax.Array) -> jax.Array:
    return jnp.where(values > 0, values, jnp.ones_like(values))
