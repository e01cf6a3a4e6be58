"""Many runs of an arm at once: seeds are a vmapped axis of one compiled program."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.rules import Rule
from benchmarks.evidence.task import Draw, Task
from benchmarks.timing import interleaved_seconds

Build = Callable[[Task, int], Rule]
CHUNKS = 10  # a line of progress after each


class Trained(NamedTuple):
    """What N runs gave."""

    measures: dict[str, np.ndarray]  # (N,) by name
    seconds: float  # of training all of them, without compiling


class Runs:
    """An arm on a task, N seeds side by side, compiled once for each N.

    Args:
      task: what is trained.
      build: of the arm.
      steps: in place of the task's.
    """

    def __init__(self, task: Task, build: Build, steps: int | None = None):
        self.task, self.steps = task, task.steps if steps is None else steps
        self._rule = build(task, self.steps)
        self._programs: dict[int, Any] = {}
        self._seeds = jnp.zeros((0,), jnp.uint32)
        self.carry: Any = None

    def reset(self, seeds: Sequence[int], weights: np.ndarray | None = None) -> None:
        """The start of N runs; compiles where N is new.

        Args:
          seeds: N; a seed has the same start and the same batches in every arm.
          weights: (N, K), of static weights; ones by default.
        """
        number = len(seeds)
        if weights is None:
            weights = np.ones((number, self.task.number))
        self._seeds = jnp.asarray(seeds, jnp.uint32)
        starts = _starts(self.task, self._seeds)
        states = jax.jit(jax.vmap(self._rule.init))(
            starts, jnp.asarray(weights, jnp.float32)
        )
        # The program overwrites what it is given; starts are shared by all arms.
        self.carry = jax.tree.map(jnp.copy, (starts, states))
        if number not in self._programs:
            arguments = (self.carry, self._seeds, self.task.data, 0, 0)
            self._programs[number] = (
                jax.jit(self._advanced, donate_argnums=0).lower(*arguments).compile()
            )

    def advance(self, first: int, last: int) -> Any:
        """Steps ``first`` to ``last``, the latter not included."""
        program = self._programs[len(self._seeds)]
        self.carry = program(self.carry, self._seeds, self.task.data, first, last)
        return self.carry

    def measures(self) -> dict[str, np.ndarray]:
        """What the task measures on the parameters as they are, each (N,)."""
        found = _measured(self.task, self.carry[0])
        return {name: np.asarray(v, np.float64) for name, v in found.items()}

    def _advanced(self, carry, seeds, data, first, last):
        def one_seed(seed, params, state):
            key = jax.random.split(jax.random.key(seed))[1]

            def body(step, carry):
                at_step = jax.random.fold_in(key, step)
                draw = Draw(data, at_step, step, step / self.steps)
                return self._rule.step(carry[0], carry[1], draw)

            return jax.lax.fori_loop(first, last, body, (params, state))

        return jax.vmap(one_seed)(seeds, *carry)


def train(
    runs: Runs,
    seeds: Sequence[int],
    weights: np.ndarray | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """N runs from the start to the end; arguments as of ``Runs.reset``."""
    runs.reset(seeds, weights)
    began = time.perf_counter()
    ends = np.linspace(0, runs.steps, CHUNKS + 1).round().astype(int)
    for first, last in itertools.pairwise(ends):
        jax.block_until_ready(runs.advance(int(first), int(last)))
        say(f"step {last} of {runs.steps}, {time.perf_counter() - began:.0f} s")
    seconds = time.perf_counter() - began
    return Trained(runs.measures(), seconds)


def relative_cost(
    one: Runs, control: Runs, seeds: Sequence[int], rounds: int = 7, steps: int = 5
) -> float:
    """How many times the control's step a step of ``one`` takes: a ratio of medians.

    A few steps of either by turns, so that what disturbs the machine disturbs both.
    """
    for runs in (one, control):
        runs.reset(seeds)
    programs = {
        "one": lambda: one.advance(0, steps),
        "control": lambda: control.advance(0, steps),
    }
    seconds = interleaved_seconds(programs, rounds)
    return float(np.median(seconds["one"]) / np.median(seconds["control"]))


# Starts may be expensive (a checkpoint that is trained first): all arms share them.
_STARTS: weakref.WeakKeyDictionary[Task, dict[tuple, Any]] = weakref.WeakKeyDictionary()


def _starts(task: Task, seeds: jax.Array) -> Any:
    known = _STARTS.setdefault(task, {})
    names = tuple(np.asarray(seeds).tolist())
    if names not in known:
        if len(known) > 2:
            known.clear()

        def start(seed, data):
            return task.init(jax.random.split(jax.random.key(seed))[0], data)

        known[names] = jax.jit(jax.vmap(start, (0, None)))(seeds, task.data)
    return known[names]


def _measured(task: Task, params: Any) -> dict[str, jax.Array]:
    # One seed after the other: a test set for each at once may not fit.
    evaluate = jax.jit(
        lambda p, data: jax.lax.map(lambda one: task.evaluate(one, data), p)
    )
    return evaluate(params, task.data)
