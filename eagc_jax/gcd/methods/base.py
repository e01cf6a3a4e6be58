"""What a method of category discovery is: heads, a state, objectives, an assignment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.typing import PyTree

Role = Literal["labeled", "unlabeled"]


class Batch(NamedTuple):
    """What the objectives know of B items besides the features of their two views."""

    labels: jax.Array  # (B,) int32, -1 on unlabeled items
    labeled_mask: jax.Array  # (B,) bool
    epoch: jax.Array  # scalar, 0 in the first epoch; schedules read it
    num_known: jax.Array | int | None = None  # classes 0..num_known-1 are known
    rows: jax.Array | None = None  # (B,) int32, which items these are


@dataclasses.dataclass(frozen=True)
class Task:
    """What a method may know before it starts."""

    num_items: int
    num_known: int
    num_classes: int  # known plus novel, given or estimated
    width: int  # of the feature


@dataclasses.dataclass(frozen=True)
class DataView:
    """All items at once, as a method sees them between epochs: never the truth."""

    features: Callable[[], np.ndarray]  # () -> (N, width) float32, computed when called
    labels: np.ndarray  # (N,) int32, -1 where there is none
    task: Task
    seed: int
    epoch: int  # how many are over


class Method(Protocol):
    """The interface that training asks for; see `SimGCD`.

    A method is a frozen dataclass: its fields are its settings, and equal settings share
    one compilation. What gradients train is in the heads; what else it remembers
    (pseudo-labels, a teacher, centres) is its state, a tree of arrays of fixed shapes.
    How the objectives' gradients become one update, and what is done to them at the
    feature, is not the method's matter.
    """

    @property
    def name(self) -> str:
        """As tables and flags spell it."""
        ...

    @property
    def objective_names(self) -> tuple[str, ...]:
        """K names."""
        ...

    @property
    def objective_weights(self) -> tuple[float, ...]:
        """K loss weights, for the aggregator."""
        ...

    @property
    def objective_roles(self) -> tuple[Role, ...]:
        """K roles: which objective is of labeled rows, which of unlabeled (or all) ones.

        At least one of each: the coordinator at the feature and the diagnostics look at
        the first of either role.
        """
        ...

    def build_head(
        self, inputs: int, num_classes: int, *, rngs: nnx.Rngs
    ) -> nnx.Module:
        """The heads on features (rows, inputs)."""
        ...

    def init(self, task: Task) -> PyTree:
        """The first state; an empty tuple for none."""
        ...

    def objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, ...], PyTree]:
        """K scalars before weighting, from (2B, inputs) features, and the new state.

        Rows 0..B-1 are the first views, rows B..2B-1 the second ones. Under `jit`.
        """
        ...

    def warm_objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, ...], PyTree]:
        """The same during a warm start, before clusters of novel classes are known."""
        ...

    def with_centres(self, head: nnx.Module, centres: jax.Array) -> nnx.Module:
        """The heads with (K, inputs) cluster centres for prototypes, if it has any."""
        ...

    def between_epochs(self, head: nnx.Module, state: PyTree, view: DataView) -> PyTree:
        """The state for the next epoch. Not under `jit`; called after every epoch."""
        ...

    def before_assignment(
        self, head: nnx.Module, state: PyTree, view: DataView
    ) -> PyTree:
        """The state that `assign` is given: for what only an assignment needs."""
        ...

    def assign(self, head: nnx.Module, state: PyTree, features: jax.Array) -> jax.Array:
        """(N, classes) logits: an item belongs to the largest, known classes first."""
        ...


class TwoObjectives:
    """A supervised objective, then an unsupervised one; no state.

    Their weights sum to one, where a method doesn't say otherwise.
    """

    supervised_weight: float

    @property
    def objective_names(self) -> tuple[str, str]:
        """Of the two objectives."""
        return ("supervised", "unsupervised")

    @property
    def objective_weights(self) -> tuple[float, float]:
        """Loss weights of the two objectives."""
        return (self.supervised_weight, 1 - self.supervised_weight)

    @property
    def objective_roles(self) -> tuple[Role, Role]:
        """Of the two objectives."""
        return ("labeled", "unlabeled")

    def init(self, task: Task) -> PyTree:
        """Nothing to remember."""
        del task
        return ()

    def objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        """The supervised and the unsupervised one; each method has its own."""
        raise NotImplementedError

    def warm_objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, ...], PyTree]:
        """The supervised objective alone."""
        (supervised, _), state = self.objectives(head, state, features, batch)
        return (supervised, jnp.zeros_like(supervised)), state

    def with_centres(self, head: nnx.Module, centres: jax.Array) -> nnx.Module:
        """The heads as they are: no prototypes."""
        del centres
        return head

    def between_epochs(self, head: nnx.Module, state: PyTree, view: DataView) -> PyTree:
        """Nothing happens."""
        del head, view
        return state

    def before_assignment(
        self, head: nnx.Module, state: PyTree, view: DataView
    ) -> PyTree:
        """Nothing is needed."""
        del head, view
        return state


def ramp(epoch: jax.Array, length: float) -> jax.Array:
    """0 in the first epoch, 1 from epoch `length - 1` on, linear between.

    1 throughout where the length is 0.
    """
    if length <= 0:
        return jnp.ones_like(epoch, jnp.float32)
    return jnp.clip(epoch / max(length - 1, 1), 0.0, 1.0)


def check(name: str, value: float, must_be: str, holds: bool) -> None:
    """Raises ValueError, naming a field, unless it holds."""
    if not holds:
        raise ValueError(f"{name} must be {must_be}, got {value}")
