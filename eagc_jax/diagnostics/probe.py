"""Do you need an aggregator? A few steps of your own training, measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import concrete
from eagc_jax._trees import compute_dtype, named_leaves
from eagc_jax.diagnostics.layers import gradient_norms, pairwise_cosines
from eagc_jax.diagnostics.probe_report import ProbeReport
from eagc_jax.gradients import value_and_grads
from eagc_jax.gradients._common import as_vector
from eagc_jax.gram import cross_gram
from eagc_jax.objectives import expand_to, weighted_sum
from eagc_jax.solvers.nnqp import nnqp

_AT_MOST = 100  # steps, where none are asked for: batches may never end
_PRECISION = jax.lax.Precision.HIGHEST


def probe(
    losses_fn: Callable[[Any, Any], Any],
    params: Any,
    batches: Iterable[Any],
    *,
    optimizer: optax.GradientTransformation | float | None = None,
    steps: int | None = None,
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
    gradients; two sets of K gradients are in memory. One compilation, if all batches
    have the same shapes.

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
      steps: at most so many batches are used; None for all, but no more than 100.
      names: of the objectives, K strings in the order of the losses; None for the keys
        of a dict (sorted, as JAX has them), else "0", "1", ...

    Returns:
      A ``ProbeReport`` of NumPy arrays.

    Raises:
      ValueError: no batch, bad ``steps`` or ``names``, losses that are not K scalars.

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
    number = _AT_MOST if steps is None else steps
    if not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(f"steps must be an int >= 1 or None, got {steps!r}.")
    optimizer = _optimizer(optimizer)
    # Without weak types, which the first update would take off: one compilation.
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype=jnp.result_type(p)), params)
    step, carry, found_names, rows = _compiled(losses_fn, optimizer), None, (), []
    for batch in itertools.islice(batches, int(number)):
        if carry is None:
            found_names = _names(names, jax.eval_shape(losses_fn, params, batch))
            carry = _start(params, optimizer, len(found_names))
        carry, measured = step(carry, batch)
        rows.append(jax.tree.map(np.asarray, measured))
    if not rows:
        raise ValueError(
            "batches is empty: pass at least one batch. (A generator that was used "
            "before is at its end.)"
        )
    table = jax.tree.map(lambda *values: np.stack(values), *rows)
    first = {"cosines_across": 1, "progress_across": 1}  # step 0 has none before it
    return ProbeReport(
        names=found_names,
        layers=tuple(named_leaves(params)),
        **{name: x[first.get(name, 0) :] for name, x in table._asdict().items()},
        trained=optimizer is not None,
        gradient_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    )


class _Measured(NamedTuple):
    """One step. K objectives, L leaves."""

    losses: jax.Array  # (K,)
    norms: jax.Array  # (K,)
    cosines: jax.Array  # (K, K)
    progress: jax.Array  # (K,)
    balanced_progress: jax.Array  # (K,)
    attainable: jax.Array  # ()
    layer_norms: jax.Array  # (K, L)
    layer_cosines: jax.Array  # (K, K, L)
    cosines_across: jax.Array  # (K, K)
    progress_across: jax.Array  # (K,)


class _Carry(NamedTuple):
    params: Any
    opt_state: Any
    units: Any  # leaves (K, *shape), float32: the last step's gradients, of length 1.


def _start(params: Any, optimizer: Any, number: int) -> _Carry:
    def zeros(leaf):
        return jnp.zeros((number, *leaf.shape), compute_dtype(leaf.dtype))

    state = None if optimizer is None else optimizer.init(params)
    return _Carry(params, state, jax.tree.map(zeros, params))


def _compiled(losses_fn: Callable, optimizer: Any) -> Callable:
    @jax.jit
    def step(carry, batch):
        losses, gradients = value_and_grads(losses_fn)(carry.params, batch)
        measured, units = _measure(as_vector(losses), gradients, carry.units)
        params, state = carry.params, carry.opt_state
        if optimizer is not None:
            total = jax.tree.map(
                lambda g: weighted_sum(g, None).astype(g.dtype), gradients
            )
            updates, state = optimizer.update(total, state, params)
            params = optax.apply_updates(params, updates)
        return _Carry(params, state, units), measured

    return step


def _measure(losses, gradients, last):
    lengths = gradient_norms(gradients).flat  # (K, L)
    within = pairwise_cosines(gradients).flat  # (K, K, L)
    unit = jnp.max(lengths, axis=1)
    share = lengths / _nonzero(unit)[:, None]
    norms = unit * jnp.sqrt(jnp.sum(share * share, axis=1))
    share = lengths / _nonzero(norms)[:, None]  # of the objective's length, by leaf
    cosines = jnp.sum(within * share[:, None] * share[None], axis=-1)
    units = jax.tree.map(lambda g: _over(g, _nonzero(norms)), gradients)
    across = cross_gram(last, units).astype(norms.dtype)
    relative = norms / _nonzero(jnp.max(norms))
    even = (norms > 0).astype(norms.dtype)
    measured = _Measured(
        losses=losses,
        norms=norms,
        cosines=jnp.clip(cosines, -1.0, 1.0),
        progress=_along_sum(cosines, cosines, relative),
        balanced_progress=_along_sum(cosines, cosines, even),
        attainable=_attainable(cosines),
        layer_norms=lengths,
        layer_cosines=within,
        cosines_across=across,
        progress_across=_along_sum(across, cosines, relative),
    )
    return measured, units


def _over(leaf, lengths):
    """``(K, *shape)`` over ``(K,)``, in the leaf's dtype or float32 at least."""
    dtype = compute_dtype(leaf.dtype)
    return leaf.astype(dtype) / expand_to(lengths, leaf.ndim).astype(dtype)


def _along_sum(with_others, cosines, lengths):
    """Cosine of each objective with the sum of all: ``(K,)``.

    Args:
      with_others: ``(K, K)``, cosines of the objective (row) with the summed ones.
      cosines: ``(K, K)``, among the summed ones.
      lengths: ``(K,)``, of these.
    """
    inner = jnp.matmul(with_others, lengths, precision=_PRECISION)
    square = lengths @ jnp.matmul(cosines, lengths, precision=_PRECISION)
    # A sum that cancels to rounding has no direction.
    rounding = 10 * jnp.finfo(lengths.dtype).eps * jnp.sum(lengths) ** 2
    usable = ~(square <= rounding)  # NaN stays NaN
    size = jnp.sqrt(jnp.where(usable, square, 1.0))
    return jnp.where(usable, jnp.clip(inner / size, -1.0, 1.0), 0.0)


def _attainable(cosines):
    """The norm of the shortest convex combination of the unit gradients."""
    live = (jnp.diagonal(cosines) > 0).astype(cosines.dtype)
    x, _ = nnqp(cosines + jnp.diag(1 - live), live)
    weights = x / _nonzero(jnp.sum(x))
    square = weights @ jnp.matmul(cosines, weights, precision=_PRECISION)
    return jnp.sqrt(jnp.maximum(square, 0.0))


def _optimizer(optimizer: Any) -> Any:
    if optimizer is None or hasattr(optimizer, "update"):
        return optimizer
    rate = None if isinstance(optimizer, str) else concrete(optimizer)
    if rate is None or rate.shape != () or not np.isfinite(rate):
        raise ValueError(
            "optimizer must be an optax.GradientTransformation, a learning rate or None; "
            f"got {optimizer!r}."
        )
    return optax.sgd(float(rate))


def _names(names: Sequence[str] | None, losses: Any) -> tuple[str, ...]:
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
