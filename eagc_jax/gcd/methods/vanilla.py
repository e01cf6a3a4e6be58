"""Vanilla GCD: contrastive features, then semi-supervised k-means."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from eagc_jax.gcd import losses
from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.heads import Projector
from eagc_jax.gcd.methods.base import Batch, DataView, Task, TwoObjectives, check
from eagc_jax.gcd.methods.registry import register
from eagc_jax.typing import PyTree


@register
@dataclasses.dataclass(frozen=True)
class VanillaGCD(TwoObjectives):
    """SupCon on labeled rows, InfoNCE on all; clusters instead of a classifier.

    It predicts by semi-supervised k-means on the backbone's features of length 1 of all
    images, labeled ones fixed to their class; the head takes no part in that.

    The projector is SimGCD's, sized for a small backbone; the published one goes on, to
    65,536 normalised outputs.

    Raises:
      ValueError: a number is out of its range; the message names the field.

    Examples:
      >>> VanillaGCD().objective_weights
      (0.35, 0.65)

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """

    supervised_weight: float = 0.35  # loss weight; the unsupervised one is 1 minus it
    supervised_temperature: float = 0.07  # of SupCon
    unsupervised_temperature: float = 1.0  # of InfoNCE
    head_hidden: int = 256  # units of the projector's hidden layers
    head_projection: int = 64  # features of the projection
    restarts: int = 10  # of k-means
    max_iterations: int = 200

    def __post_init__(self) -> None:
        for name in ("supervised_temperature", "unsupervised_temperature"):
            check(name, getattr(self, name), "positive", getattr(self, name) > 0)
        for name in ("head_hidden", "head_projection", "restarts", "max_iterations"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        weight = self.supervised_weight
        check("supervised_weight", weight, "in [0, 1]", 0 <= weight <= 1)

    @property
    def name(self) -> str:
        """As tables and flags spell it."""
        return "gcd"

    def build_head(self, inputs: int, num_classes: int, *, rngs: nnx.Rngs) -> Projector:
        """The projector; the number of classes plays no part."""
        del num_classes
        return Projector(inputs, self.head_hidden, self.head_projection, rngs=rngs)

    def init(self, task: Task) -> jax.Array:
        """(K, width) centres; zeros until there is an assignment."""
        return jnp.zeros((task.num_classes, task.width), jnp.float32)

    def objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        """The supervised and the unsupervised objective, before weighting."""
        found = losses.vanilla_gcd_objectives(
            head(features),
            batch.labels,
            batch.labeled_mask,
            supervised_temperature=self.supervised_temperature,
            unsupervised_temperature=self.unsupervised_temperature,
        )
        return found, state

    def before_assignment(
        self, head: nnx.Module, state: PyTree, view: DataView
    ) -> jax.Array:
        """Centres of semi-supervised k-means on all items' features."""
        del head, state
        found = semi_supervised_kmeans(
            jax.random.key(view.seed),
            view.features(),
            view.task.num_classes,
            view.labels,
            view.labels >= 0,
            restarts=self.restarts,
            max_iterations=self.max_iterations,
        )
        return found.centres

    def assign(
        self, head: nnx.Module, state: jax.Array, features: jax.Array
    ) -> jax.Array:
        """`2 u.c - |c|^2` of unit features u: the largest is the nearest centre's."""
        del head
        lengths = jnp.linalg.norm(features, axis=1, keepdims=True)
        unit = features / jnp.maximum(lengths, 1e-12)
        products = jnp.matmul(unit, state.T, precision=jax.lax.Precision.HIGHEST)
        return 2 * products - jnp.sum(state**2, axis=1)
