"""What a method of category discovery is: heads, objectives, a rule to predict."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Batch(NamedTuple):
    """What the objectives know of B images besides the features of their two views."""

    labels: jax.Array  # (B,) int32, -1 on unlabeled images
    labeled_mask: jax.Array  # (B,) bool
    epoch: jax.Array  # scalar, 0 in the first epoch; schedules read it
    num_known: jax.Array | int | None = None  # classes 0..num_known-1 are known


class Method(Protocol):
    """The small interface that the training loop asks for; see `SimGCD`.

    A method is a frozen dataclass: its fields are its settings, and equal settings share
    one compilation. Objective 0 is the supervised one, on labeled rows; objective 1 the
    unsupervised one. How their gradients become one update, and what is done to them at
    the feature, is not the method's matter.
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

    def build_head(
        self, inputs: int, num_classes: int, *, rngs: nnx.Rngs
    ) -> nnx.Module:
        """The heads on features (rows, inputs)."""
        ...

    def objectives(
        self, head: nnx.Module, features: jax.Array, batch: Batch
    ) -> tuple[jax.Array, ...]:
        """K scalars before weighting, from (2B, inputs) features.

        Rows 0..B-1 are the first views, rows B..2B-1 the second ones.
        """
        ...

    def predict(
        self,
        head: nnx.Module,
        features: jax.Array,
        labels: np.ndarray,
        num_classes: int,
        seed: int,
    ) -> np.ndarray:
        """(N,) cluster numbers of N images, labels -1 where there is none."""
        ...


class TwoObjectives:
    """A supervised objective, then an unsupervised one.

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
