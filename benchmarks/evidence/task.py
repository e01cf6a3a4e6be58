"""What a task is, and the list of all of them by family."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import optax

# Category discovery is benchmarks.discovery: a run there is more than K losses.
Family = Literal["physics", "multitask", "continual", "language", "rewards"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class Draw(NamedTuple):
    """What a step's losses are computed on."""

    data: Any  # the task's, the same in every step
    key: jax.Array  # for batches and points: of the seed and the step, in every arm
    step: jax.Array  # shape=(), int32
    share: jax.Array  # shape=(), float32 in [0, 1): how much of the training is over


def decayed_adam(
    steps: int, learning_rate: float = 2e-3
) -> optax.GradientTransformation:
    """Adam, its learning rate halved with each quarter of the steps, continuously."""
    schedule = optax.exponential_decay(learning_rate, max(steps // 4, 1), 0.5)
    return optax.adam(schedule)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One model, K objectives, and a measure of how good the trained model is.

    All functions must jit and vmap over their first argument; seeds are a vmapped axis.
    """

    family: Family
    name: str
    objectives: tuple[str, ...]  # K names
    init: Callable[[jax.Array, Any], Any]  # (key, data) -> params
    # (params, draw) -> K scalars. A tuple, so that what an objective doesn't read isn't
    # differentiated for it.
    losses: Callable[[Any, Draw], tuple[jax.Array, ...]]
    # (params, data) -> scalars by name, among them ``metric``.
    evaluate: Callable[[Any, Any], dict[str, jax.Array]]
    steps: int
    data: Any = ()
    optimizer: Callable[[int], optax.GradientTransformation] = decayed_adam
    metric: str = "error"  # lower is better, > 0: it is compared by its logarithm

    @property
    def number(self) -> int:
        """K."""
        return len(self.objectives)


@dataclasses.dataclass(frozen=True)
class Given:
    """What the user gave: where data lies, and whether sizes are those of a test."""

    data: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    small: bool = False


Builder = Callable[[Given], Task]
_BUILDERS: dict[str, dict[str, Builder]] = {family: {} for family in FAMILIES}


def task(family: Family, name: str) -> Callable[[Builder], Builder]:
    """A decorator that lists a function as the builder of a family's task.

    The function takes :class:`Given` and returns the :class:`Task`, or raises
    FileNotFoundError or ImportError with a message on what it lacks; the task is then
    left out by name.
    """

    def decorate(builder: Builder) -> Builder:
        if name in _BUILDERS[family]:
            raise ValueError(f"name must not be taken in {family}, got {name!r}")
        _BUILDERS[family][name] = builder
        return builder

    return decorate


def builders(family: str) -> Mapping[str, Builder]:
    """A family's tasks by name, in the order of the files that register them.

    Raises:
      ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    importlib.import_module(f"benchmarks.evidence.tasks.{family}")
    return _BUILDERS[family]
