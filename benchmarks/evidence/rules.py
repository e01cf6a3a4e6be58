"""How an arm makes a step: two kinds, by what they differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.evidence.task import Draw, Task
from eagc_jax import stack_objectives


class Rule(NamedTuple):
    """An arm at work on a task."""

    # (params, weights (K,)) -> state; only static weights look at the second.
    init: Callable[[Any, jax.Array], Any]
    # (params, state, draw) -> (params, state)
    step: Callable[[Any, Any, Draw], tuple[Any, Any]]


def of_gradients(
    task: Task, coordinated: optax.GradientTransformationExtraArgs
) -> Rule:
    """K gradients into a transformation that ends in the task's optimizer.

    Each objective is differentiated by itself: what they share is computed once, as the
    compiler sees, and nothing is computed for an objective that doesn't need it.
    """

    def init(params, weights):
        del weights
        return coordinated.init(params)

    def step(params, state, draw):
        losses, gradients = zip(
            *(
                jax.value_and_grad(lambda p, k=k: task.losses(p, draw)[k])(params)
                for k in range(task.number)
            ),
            strict=True,
        )
        updates, state = coordinated.update(
            stack_objectives(gradients), state, params, value=jnp.stack(losses)
        )
        return optax.apply_updates(params, updates), state

    return Rule(init, step)


class LossesState(NamedTuple):
    """State of an arm that weights losses."""

    optimizer: Any
    method: Any
    after: jax.Array  # shape=(K,): the last batch's losses after the last step, or 0


def of_losses(
    task: Task,
    steps: int,
    method: optax.GradientTransformationExtraArgs,
    look_again: bool = False,
) -> Rule:
    """Weights from the losses alone, then one gradient of the weighted sum.

    An aggregator that doesn't look at gradients gives its weights when it is handed the
    K unit vectors, so one backward pass is enough.

    Args:
      task: whose losses.
      steps: of the training.
      method: ``update`` takes ``value``.
      look_again: whether a second forward pass after the step gives ``value_after``.
    """
    optimizer = task.optimizer(steps)
    number = task.number

    def stacked(params, draw):
        return jnp.stack(task.losses(params, draw))

    def init(params, weights):
        del weights
        start = method.init(jnp.zeros((number,)))
        return LossesState(optimizer.init(params), start, jnp.zeros((number,)))

    def step(params, state, draw):
        losses, pull_back = jax.vjp(lambda p: stacked(p, draw), params)
        extra = {"value_after": state.after} if look_again else {}
        weights, own = method.update(
            jnp.eye(number), state.method, value=losses, **extra
        )
        (gradient,) = pull_back(weights)
        updates, inner = optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        after = stacked(params, draw) if look_again else state.after
        return params, LossesState(inner, own, after)

    return Rule(init, step)


class StaticState(NamedTuple):
    """State of static weights."""

    optimizer: Any
    weights: jax.Array  # shape=(K,)


def static(task: Task, steps: int) -> Rule:
    """The plain weighted sum; weights are part of the state, so runs may differ."""
    optimizer = task.optimizer(steps)

    def init(params, weights):
        return StaticState(optimizer.init(params), weights)

    def step(params, state, draw):
        def total(p):
            return sum(
                state.weights[k] * loss for k, loss in enumerate(task.losses(p, draw))
            )

        updates, inner = optimizer.update(jax.grad(total)(params), state[0], params)
        return optax.apply_updates(params, updates), state._replace(optimizer=inner)

    return Rule(init, step)
