"""Whether a conflict that is taken away would have done harm, on batches kept back.

From the same parameters and the same optimizer's state two steps are tried: the plain
sum's, and that of the sum after every objective has yielded to those it conflicts with
(UPGrad's projection). Where no gradients conflict they are the same step. Losses after
either are compared on draws that neither has seen; the training goes on with the sum's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.evidence.task import Draw, Task
from eagc_jax import aggregators, stack_objectives, sum_objectives

_HELD_OUT = 2**30  # numbers of draws that no step of a training has


def removal(task: Task, seed: int, steps: int, draws: int = 4) -> float:
    """What removing conflicts gains on held-out draws, as a share of what a step changes.

    Over the first ``steps`` of the plain sum's training: the relative losses after the
    sum's step less those after the other one, summed over objectives, over the sum of
    their absolute changes by the sum's step. 0 where nothing conflicts; positive where
    what was removed did harm.

    Args:
      task: whose.
      seed: as of its trainings: the same starts, batches and learning rates.
      steps: to look at.
      draws: held out, for each step.

    Returns:
      The share; NaN where no loss changes or one isn't finite.
    """
    start, batches = jax.random.split(jax.random.key(seed))
    params = jax.jit(task.init)(start, task.data)
    found = _tried(task, steps, draws)(params, batches, task.data)
    before, of_sum, removed = (np.asarray(x, np.float64) for x in found)
    size = np.abs(before).mean(axis=1)  # (steps, K)
    gained = ((of_sum - removed).mean(axis=1) / size).sum()
    changed = (np.abs((of_sum - before).mean(axis=1)) / size).sum()
    return float(gained / changed) if changed > 0 else float("nan")


def _tried(task: Task, steps: int, draws: int):
    """Losses, each (steps, draws, K): before, after the sum's, after the other step."""
    optimizer = task.optimizer(task.steps)
    plain = sum_objectives()
    yielding = aggregators.elastic_cone(task.number, balance=0.0)

    def direction(method, gradients, state) -> Any:
        found, _ = method.update(gradients, state)
        return found

    def after(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def run(params, key, data):
        def draw(number, step):
            at = jax.random.fold_in(key, number)
            return Draw(data, at, step, step / task.steps)

        def losses(params, step):
            numbers = _HELD_OUT + step * draws + jnp.arange(draws)
            return jax.lax.map(
                lambda n: jnp.stack(task.losses(params, draw(n, step))), numbers
            )

        def body(carry, step):
            params, state = carry
            gradients = stack_objectives(
                [
                    jax.grad(lambda p, k=k: task.losses(p, draw(step, step))[k])(params)
                    for k in range(task.number)
                ]
            )
            total = direction(plain, gradients, plain.init(params))
            other = direction(yielding, gradients, yielding.init(params))
            removed, _ = after(params, state, other)
            moved, state = after(params, state, total)
            seen = tuple(losses(p, step) for p in (params, moved, removed))
            return (moved, state), seen

        carry = (params, optimizer.init(params))
        return jax.lax.scan(body, carry, jnp.arange(steps))[1]

    return run
