"""SimGCD: a parametric classifier that distils itself, with two contrastive terms."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from eagc_jax.gcd import losses
from eagc_jax.gcd.heads import SimGCDHead, with_prototypes
from eagc_jax.gcd.methods.base import Batch, TwoObjectives, check, ramp
from eagc_jax.gcd.methods.registry import register
from eagc_jax.typing import PyTree


@register
@dataclasses.dataclass(frozen=True)
class SimGCD(TwoObjectives):
    """SimGCD with its published settings, sized for a small backbone.

    The supervised objective is cross-entropy and SupCon on labeled rows; the
    unsupervised one self-distillation between the views, mean-entropy maximisation and
    InfoNCE, on all rows. It predicts the classifier's largest logit.

    The warm-up of the teacher takes the share of a run of 40 epochs that it takes of
    the published 200.

    Raises:
      ValueError: a number is out of its range; the message names the field.

    Examples:
      >>> SimGCD().objective_weights
      (0.35, 0.65)

    References:
      Wen, Zhao and Qi, "Parametric Classification for Generalized Category Discovery:
      A Baseline Study" (SimGCD), ICCV 2023.
    """

    supervised_weight: float = 0.35  # loss weight; the unsupervised one is 1 minus it
    entropy_weight: float = 2.0  # of the mean-entropy term beside self-distillation
    teacher_temperature: float = 0.07  # of self-distillation, in the first epoch
    final_teacher_temperature: float = 0.04  # after the warm-up
    teacher_warmup_epochs: int = 6  # of linear fall between the two
    student_temperature: float = 0.1  # of cross-entropy and self-distillation
    supervised_contrastive_temperature: float = 0.07
    contrastive_temperature: float = 1.0  # of InfoNCE
    head_hidden: int = 256  # units of the projector's hidden layers
    head_projection: int = 64  # features of the projection
    extra_head_layer: bool = False  # Linear and ReLU in front of both heads

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            value = getattr(self, name)
            if name.endswith("_temperature"):
                check(name, value, "positive", value > 0)
        for name in ("head_hidden", "head_projection"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("entropy_weight", "teacher_warmup_epochs"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        weight = self.supervised_weight
        check("supervised_weight", weight, "in [0, 1]", 0 <= weight <= 1)

    @property
    def name(self) -> str:
        """As tables and flags spell it."""
        return "simgcd"

    @property
    def probability_temperature(self) -> float:
        """At which the softmax of the logits says how sure the classifier is."""
        return self.student_temperature

    def build_head(
        self, inputs: int, num_classes: int, *, rngs: nnx.Rngs
    ) -> SimGCDHead:
        """The projector and the cosine classifier."""
        return SimGCDHead(
            inputs,
            num_classes,
            hidden=self.head_hidden,
            projection=self.head_projection,
            extra_layer=self.extra_head_layer,
            rngs=rngs,
        )

    def objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        """The supervised and the unsupervised objective, before weighting."""
        projections, logits = head(features)
        return self.objectives_of_outputs(projections, logits, batch), state

    def warm_objectives(
        self, head: nnx.Module, state: PyTree, features: jax.Array, batch: Batch
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        """The supervised objective, and InfoNCE alone: no prototype of a novel class."""
        projections, logits = head(features)
        supervised, _ = self.objectives_of_outputs(projections, logits, batch)
        contrast = losses.info_nce(
            projections, temperature=self.contrastive_temperature
        )
        return (supervised, contrast), state

    def with_centres(self, head: nnx.Module, centres: jax.Array) -> nnx.Module:
        """The classifier's prototypes are the centres."""
        assert isinstance(head, SimGCDHead)  # as `build_head` made it
        return with_prototypes(head, head.classifier, centres)

    def objectives_of_outputs(
        self, projections: jax.Array, logits: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """The same from the head's outputs, (2B, projection) and (2B, classes)."""
        supervised = losses.labeled_cross_entropy(
            logits,
            batch.labels,
            batch.labeled_mask,
            temperature=self.student_temperature,
        ) + losses.supervised_contrastive(
            projections,
            batch.labels,
            batch.labeled_mask,
            temperature=self.supervised_contrastive_temperature,
        )
        distillation = losses.self_distillation(
            logits,
            logits,
            teacher_temperature=self.teacher_temperature_at(batch.epoch),
            student_temperature=self.student_temperature,
        )
        entropy = losses.mean_entropy_regularizer(
            logits, temperature=self.student_temperature
        )
        contrast = losses.info_nce(
            projections, temperature=self.contrastive_temperature
        )
        return supervised, distillation + self.entropy_weight * entropy + contrast

    def teacher_temperature_at(self, epoch: jax.Array) -> jax.Array:
        """Of self-distillation, in an epoch counted from 0."""
        fall = self.final_teacher_temperature - self.teacher_temperature
        done = ramp(jnp.asarray(epoch), self.teacher_warmup_epochs)
        return self.teacher_temperature + fall * done

    def assign(self, head: nnx.Module, state: PyTree, features: jax.Array) -> jax.Array:
        """The classifier's logits."""
        del state
        return head(features)[1]
