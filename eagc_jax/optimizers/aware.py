"""Aggregators in the metric of the optimizer that applies their update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import check_mask, check_objective_axis
from eagc_jax._states import check_kind
from eagc_jax._trees import named_leaves, widened
from eagc_jax.aggregators import AggregateState
from eagc_jax.aggregators._base.decide import Decided
from eagc_jax.optimizers.certificate import Certificate, certified, no_certificate
from eagc_jax.optimizers.probe import expect, metric_of, probe
from eagc_jax.optimizers.recognise import check_recognised
from eagc_jax.typing import Inputs, OptState, Params, Updates


class OptimizerAwareState(NamedTuple):
    """The states of both, and what the applied update did."""

    aggregator: (
        AggregateState  # ``weights``, and ``fallbacks``: steps that were capped.
    )
    optimizer: OptState  # the optimizer's own.
    certificate: Certificate | tuple[()]  # () without ``certify``.


def optimizer_aware(
    aggregator: optax.GradientTransformationExtraArgs,
    optimizer: optax.GradientTransformation,
    *,
    include_momentum: bool = False,
    certify: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes conflict between gradients where the parameters feel it: in the step.

    An optimizer rescales the gradient, :math:`P d`, and adds momentum. The step may raise
    a loss although no gradients conflicted. Here the aggregator, whose weights w are a
    function of the Gram matrix, is given that matrix in the optimizer's metric,

    .. math:: H = J P J^\top, \qquad H_{kl} = \langle g_k, P g_l \rangle,

    J the K gradients. Its update is :math:`d = J^\top w(H)`, the optimizer's input, and
    what it guarantees of the update in the plain metric it guarantees of :math:`P d`:
    :math:`\langle g_k, P J^\top w \rangle = (H w)_k`. With an optimizer that only has a
    learning rate, ``optax.sgd``, it is the plain aggregator.

    **P** is measured, not declared: the optimizer is asked what it makes of a gradient
    :math:`d' = \sum_k w'_k g_k`, w' the last step's weights (equal ones in the first
    step), with momentum and weight decay away. So its learning rate, bias corrections,
    eps, masks and groups are right by themselves. P is diagonal for Adam, AdamW, NAdam,
    RAdam, AMSGrad, AdaMax, RMSProp, Adagrad and SGD, with the second moment as it is
    *after* the step, had the gradient been d'; for Lion it is :math:`1 / |m|` with
    the running mean m after the step, since its sign has no metric of its own; for Muon
    :math:`(M M^\top)^{-1/2}` for every matrix (a few small eigendecompositions a step).

    **What is exact.** (Hw)_k >= 0, or whatever the aggregator guarantees, is exact for
    :math:`P d`. The optimizer's own P differs by as much as w does from w':
    :math:`(1 - b_2)(d^2 - d'^2)` in a second moment. So for the step that is applied it
    is approximate, and least so in the first steps, when d alone makes up the second
    moment. With ``certify=True`` it is exact.

    **include_momentum**: the whole step goes along :math:`P (r + d)`, where r is what
    momentum and weight decay do, for Adam
    :math:`r = \frac{b_1}{1 - b_1} m` with the old momentum m. With :math:`c = J P r` and
    the aggregator's weights :math:`w_0`,

    .. math:: w = w_0 + \arg\min_{x \ge 0}\;
        \tfrac12 x^\top H x + x^\top (H w_0 + c),

    the least added weights for which the whole step raises no loss to first order (a
    projection in the metric of P). Such weights always exist, but where gradients are
    nearly opposed they may be huge. Each, times its gradient's norm in the metric, is
    capped at 100 times the largest of :math:`w_0`; a capped step may raise a loss and is
    counted in ``state.aggregator.fallbacks``.

    **certify** measures the applied update u, :math:`s_k = -\langle g_k, u \rangle`, and
    where it raises a loss applies the nearest one in the metric that doesn't,
    :math:`u - P J^\top x`. It holds for any optimizer, momentum and weight decay
    included; the optimizer's state doesn't see it. Exact is to rounding, which gradients
    opposed to an angle of a magnify: in float32 to a cosine, in the metric, of some
    4e-7 / a. Of an optimizer without a learning rate, whose step what follows it turns
    round, the turned step is meant.

    Cost: the plain aggregator reads the gradients twice, this one three times (for d',
    for H and c together, for :math:`J^\top w`); where the Gram matrix is made entry by
    entry, on accelerators, c is a read of its own.
    The optimizer is run on one gradient up to three times more, without reading the K.
    ``certify`` reads them once more, and another time in steps that it corrects; with
    ``recompute_every`` it makes a Gram matrix of its own. Memory:
    for P (with its sign and without) and r a copy of the parameters each, on CPU, and in
    some cases on TPU, for d', too; for Muon's matrices one of the gradients.

    Args:
      aggregator: from :mod:`eagc_jax.aggregators`, one that works on the Gram matrix;
        its options hold. ``granularity`` gives weights, and the guarantee, by block; with
        ``recompute_every`` or ``weight_smoothing`` guarantees are as without the
        optimizer. Gates come before: ``optax.chain(assess_energy(K), soft_gate(K),
        optimizer_aware(...))``.
      optimizer: of Optax: ``adam`` and the others above, chains of their parts with
        schedules and weight decay, under ``optax.masked``, ``optax.partition`` and
        ``optax.inject_hyperparams``. What mixes a gradient's entries, as clipping the
        global norm does, belongs in front of all this.
      include_momentum: whether the old momentum and weight decay count, too. Not for
        Lion.
      certify: whether the applied update is measured and, if it must be, corrected.

    Returns:
      A transformation from leaves ``(K, *shape)`` to the optimizer's update,
      ``(*shape)``. ``update`` takes ``params``, the aggregator's ``active_mask`` and
      ``value``, and passes what else it is given to both. Inside ``jax.shard_map`` the
      aggregator's ``axis_name`` serves all.

    Raises:
      ValueError: an aggregator without a Gram matrix (at once); an optimizer whose
        preconditioner isn't known, or that isn't a preconditioner (from ``init`` or when
        traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import aggregators, optimizer_aware
      >>> tx = optimizer_aware(aggregators.upgrad(2), optax.adam(0.1))
      >>> params = {"w": jnp.zeros(2)}
      >>> grads = {"w": jnp.array([[100.0, 1.0], [-1.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init(params), params)
      >>> (grads["w"] @ update["w"] <= 0).tolist()  # which losses rise
      [True, True]

    References:
      The metric is that of `Amari's natural gradient
      <https://doi.org/10.1162/089976698300017746>`_, 1998, with an optimizer's
      preconditioner; the projection is UPGrad's, Quinton and Rey, `Jacobian Descent for
      Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_, 2024. Their use
      together is this package's own.
    """
    aggregate, names = _look_into(aggregator)
    _check_switch("include_momentum", include_momentum)
    _check_switch("certify", certify)
    optimizer = optax.with_extra_args_support(optimizer)

    def init_fn(params: Params) -> OptimizerAwareState:
        state = optimizer.init(params)
        check_recognised(state)
        inner: OptState = aggregator.init(params)
        number = inner.nonfinite_count.shape[0]
        certificate = no_certificate(number) if certify else ()
        return OptimizerAwareState(inner, state, certificate)

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        active_mask: jax.typing.ArrayLike | None = None,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState]:
        check_kind(state, OptimizerAwareState)
        check_recognised(state.optimizer)
        leaves = named_leaves(updates)
        _check_real(leaves)
        number = state.aggregator.nonfinite_count.shape[0]
        if leaves:  # else it is an empty group of optax.partition
            number = check_objective_axis(updates, None, params)

        def step(gradient, own, params):
            return optimizer.update(gradient, own, params, **extra_args)

        gains, metric, active = {}, None, check_mask(active_mask, number)
        if leaves:
            weights, always = state.aggregator.weights, state.aggregator.count >= 0
            expected = expect(updates, weights, active, always)
            narrow = any(widened(x).dtype != x.dtype for x in leaves.values())
            gains = probe(
                step, state.optimizer, params, expected, include_momentum, narrow
            )
            metric = metric_of(gains, leaves)
        told = {"active_mask": active_mask, "value": value, "metric": metric}
        gradient, inner, decided = aggregate(
            updates, state.aggregator, params, **told, **extra_args
        )
        found, own = step(gradient, state.optimizer, params)
        certificate = state.certificate
        if decided is not None and certify:
            seen = None if decided.gram is None else (decided.gram, decided.finite)
            found, certificate = certified(
                found, updates, gains, active, certificate, names, seen
            )
        return found, OptimizerAwareState(inner, own, certificate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


_Aggregate: TypeAlias = Callable[..., tuple[Updates, OptState, Decided | None]]


def _look_into(aggregator: object) -> tuple[_Aggregate, tuple[str, ...]]:
    """The update with what it was made of, and the mesh axes that it sums over.

    Raises:
      ValueError: an aggregator without a Gram matrix.
    """
    update: object = getattr(aggregator, "update", None)
    names = getattr(update, "takes_metric", None)
    decided = getattr(update, "decided", None)
    if names is None or decided is None:
        raise ValueError(
            "aggregator must be one of eagc_jax.aggregators whose weights are a function "
            "of the Gram matrix (upgrad, nash_mtl, conflict_free, mgda, mean, ...), as "
            "its factory returns it; this one has no Gram matrix to take in the "
            f"optimizer's metric: {aggregator!r}. Put a gate in front, optax.chain(gate, "
            "optimizer_aware(...)), not inside."
        )
    return decided, names


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def _check_real(leaves: dict[str, jax.Array]) -> None:
    for name, leaf in leaves.items():
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise ValueError(
                f"leaf '{name}' is {np.dtype(jnp.result_type(leaf))}: a preconditioner "
                "of complex gradients isn't known. Split real and imaginary parts."
            )
