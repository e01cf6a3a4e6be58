"""RankStats: pairs of images with the same strongest channels belong together."""

import dataclasses

import jax
from flax import nnx

from eagc_jax.gcd import losses
from eagc_jax.gcd.heads import CosineClassifier, with_prototypes
from eagc_jax.gcd.losses.rankstats import Ranking
from eagc_jax.gcd.methods.base import Batch, TwoObjectives, check
from eagc_jax.gcd.methods.registry import register
from eagc_jax.typing import PyTree


@register
@dataclasses.dataclass(frozen=True)
class RankStats(TwoObjectives):
    """AutoNovel's objectives, adapted: one cosine classifier over all classes.

    The supervised objective is cross-entropy on labeled rows; the unsupervised one asks
    pairs of unlabeled rows to agree or not, as rank statistics of their features say,
    and both views to be predicted alike. See `losses.rankstats_objectives` for what is
    left out. It predicts the classifier's largest logit.

    The consistency's settings are the published ones for CIFAR-10, the ramp-up as the
    same share of a run of 40 epochs.

    Raises:
      ValueError: a number is out of its range; the message names the field.

    Examples:
      >>> RankStats().objective_weights
      (1.0, 1.0)

    References:
      Han et al., "Automatically Discovering and Learning New Visual Categories with
      Ranking Statistics", ICLR 2020; Vaze et al., "Generalized Category Discovery",
      CVPR 2022, for the adaptation (RankStats+).
    """

    supervised_weight: float = 1.0
    unsupervised_weight: float = 1.0
    consistency_weight: float = 5.0  # after the ramp-up
    rampup_epochs: int = 10
    temperature: float = 0.1  # that divides the cosines
    top_k: int = 5  # channels whose set is compared
    by: Ranking = "value"

    def __post_init__(self) -> None:
        for name in ("supervised_weight", "unsupervised_weight", "consistency_weight"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        check("temperature", self.temperature, "positive", self.temperature > 0)
        check(
            "rampup_epochs", self.rampup_epochs, "at least 0", self.rampup_epochs >= 0
        )
        check("top_k", self.top_k, "at least 1", self.top_k >= 1)

    @property
    def name(self) -> str:
        """As tables and flags spell it."""
        return "rankstats"

    @property
    def objective_weights(self) -> tuple[float, float]:
        """Loss weights of the two objectives."""
        return (self.supervised_weight, self.unsupervised_weight)

    @property
    def probability_temperature(self) -> float:
        """At which the softmax of the logits says how sure the classifier is."""
        return self.temperature

    def build_head(
        self, inputs: int, num_classes: int, *, rngs: nnx.Rngs
    ) -> CosineClassifier:
        """The cosine classifier."""
        return CosineClassifier(inputs, num_classes, rngs=rngs)

    def objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        """The supervised and the unsupervised objective, before weighting."""
        ramped = losses.sigmoid_rampup(batch.epoch, self.rampup_epochs)
        found = losses.rankstats_objectives(
            head(features),
            features,
            batch.labels,
            batch.labeled_mask,
            consistency_weight=self.consistency_weight * ramped,
            temperature=self.temperature,
            top_k=self.top_k,
            by=self.by,
            num_known=batch.num_known,
        )
        return found, state

    def with_centres(self, head: nnx.Module, centres: jax.Array) -> nnx.Module:
        """The classifier's prototypes are the centres."""
        assert isinstance(head, CosineClassifier)  # as `build_head` made it
        return with_prototypes(head, head, centres)

    def assign(self, head: nnx.Module, state: PyTree, features: jax.Array) -> jax.Array:
        """The classifier's logits."""
        del state
        return head(features)
