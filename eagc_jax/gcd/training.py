"""SimGCD's training on several objectives, with any aggregator of their gradients.

Objective 0 is the supervised one, on labeled rows: cross-entropy and SupCon. Objective
1 is the unsupervised one, on all rows: self-distillation with mean-entropy
maximisation, and InfoNCE. How their gradients become one update is the aggregator's
matter; everything else is the same for every run.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eagc_jax import diagnostics, value_and_grads
from eagc_jax.gating import SoftGateState
from eagc_jax.gcd import data, losses
from eagc_jax.gcd.history import RunHistory
from eagc_jax.gcd.metrics import Accuracy, cluster_accuracy
from eagc_jax.gcd.models import DiscoveryModel, SimGCDHead, VisionTransformer

OBJECTIVES = ("supervised", "unsupervised")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained to discover categories.

    The defaults are SimGCD's published settings, with a warm-up of the teacher that
    takes the same share of the run and heads of a size that suits a small backbone.
    None was chosen by looking at the accuracy on novel classes.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    epochs: int = 40  # of as many images as the data set has, drawn with replacement
    batch_size: int = 128  # images per step, two views each
    learning_rate: float = 0.1  # SGD's first; falls along a cosine, step by step
    final_learning_rate: float = 1e-4  # at the last step
    momentum: float = 0.9
    weight_decay: float = 5e-5  # of kernels alone, not of biases and norms
    supervised_weight: float = 0.35  # loss weight; the unsupervised one is 1 minus it
    entropy_weight: float = 2.0  # of the mean-entropy term beside self-distillation
    teacher_temperature: float = 0.07  # of self-distillation, in the first epoch
    final_teacher_temperature: float = 0.04  # after the warm-up
    teacher_warmup_epochs: int = 6  # of linear fall between the two
    student_temperature: float = 0.1  # of cross-entropy and self-distillation
    supervised_contrastive_temperature: float = 0.07
    contrastive_temperature: float = 1.0  # of InfoNCE
    trainable_blocks: int = 1  # last blocks that train along with the heads
    head_hidden: int = 256  # units of the projector's hidden layers
    head_projection: int = 64  # features of the projection
    extra_head_layer: bool = False  # Linear and ReLU in front of both heads
    augmentation: data.Augmentation = dataclasses.field(
        default_factory=data.Augmentation
    )
    seed: int = 0  # of heads, batches and views; not of the split

    def __post_init__(self):
        for name in ("epochs", "batch_size", "head_hidden", "head_projection"):
            self._check(name, "at least 1", getattr(self, name) >= 1)
        for name in ("learning_rate", "final_learning_rate"):
            self._check(name, "positive", getattr(self, name) > 0)
        for name in (f.name for f in dataclasses.fields(self)):
            if name.endswith("_temperature"):
                self._check(name, "positive", getattr(self, name) > 0)
        for name in ("weight_decay", "entropy_weight", "teacher_warmup_epochs"):
            self._check(name, "at least 0", getattr(self, name) >= 0)
        self._check("momentum", "in [0, 1)", 0 <= self.momentum < 1)
        self._check("supervised_weight", "in [0, 1]", 0 <= self.supervised_weight <= 1)

    def _check(self, name: str, must_be: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"{name} must be {must_be}, got {getattr(self, name)}")

    @property
    def objective_weights(self) -> tuple[float, float]:
        """Loss weights of the two objectives, for the aggregator."""
        return (self.supervised_weight, 1 - self.supervised_weight)


class Batch(NamedTuple):
    """What one step sees of B images."""

    tokens: jax.Array  # (2B, T, width): two views after the frozen prefix
    labels: jax.Array  # (B,) int32, -1 on unlabeled images
    labeled_mask: jax.Array  # (B,) bool
    teacher_temperature: jax.Array  # scalar


class Evaluation(NamedTuple):
    """What the model makes of the unlabeled training images, without augmentation."""

    accuracy: Accuracy
    predictions: np.ndarray  # (N,) cluster numbers
    features: np.ndarray  # (N, width) float32


def simgcd_objectives(
    projections: jax.Array, logits: jax.Array, batch: Batch, config: TrainConfig
) -> tuple[jax.Array, jax.Array]:
    """The supervised and the unsupervised objective, before weighting.

    Args:
      projections: (2B, D), the model's first output.
      logits: (2B, C), its second.
      batch: labels and the teacher's temperature.
      config: temperatures and the entropy's weight.

    Returns:
      Two scalars.

    References:
      Wen, Zhao and Qi, "Parametric Classification for Generalized Category Discovery:
      A Baseline Study" (SimGCD), ICCV 2023.
    """
    supervised = losses.labeled_cross_entropy(
        logits,
        batch.labels,
        batch.labeled_mask,
        temperature=config.student_temperature,
    ) + losses.supervised_contrastive(
        projections,
        batch.labels,
        batch.labeled_mask,
        temperature=config.supervised_contrastive_temperature,
    )
    distillation = losses.self_distillation(
        logits,
        logits,
        teacher_temperature=batch.teacher_temperature,
        student_temperature=config.student_temperature,
    )
    entropy = losses.mean_entropy_regularizer(
        logits, temperature=config.student_temperature
    )
    contrast = losses.info_nce(projections, temperature=config.contrastive_temperature)
    return supervised, distillation + config.entropy_weight * entropy + contrast


class TrainingRun:
    """One run: iterate over it to train, an epoch at a time.

    `history` and `evaluation` always describe the epochs that are finished, so a loop
    that is interrupted leaves a valid, shorter run. `pretrained_features` are those of
    the evaluated images before any training. Two runs with the same config,
    split and backbone start from the same heads and see the same batches and views.

    Args:
      config: how to train.
      split: images, labels where they may be used, and where they may not.
      backbone: pretrained; it is not modified.
      aggregator: an Optax transformation from leaves `(2, *shape)` to leaves
        `(*shape)`, such as `eagc_jax.sum_objectives` or `eagc_jax.eagc`.
      name: of the run in tables and figures.

    Raises:
      ValueError: the images do not fit the backbone, or the batch is larger than the
        data set.

    Examples:
      >>> from eagc_jax import sum_objectives
      >>> from eagc_jax.gcd.checkpoints import load_backbone
      >>> split = data.split_categories(data.load_digits(), range(5))
      >>> config = TrainConfig()
      >>> run = TrainingRun(
      ...     config, split, load_backbone(), sum_objectives(config.objective_weights)
      ... )
      >>> run.evaluation.predictions.shape  # of the unlabeled images, untrained
      (1347,)

      `for epoch in run:` then trains; see `examples/gcd_vit.py`.
    """

    def __init__(
        self,
        config: TrainConfig,
        split: data.DiscoverySplit,
        backbone: VisionTransformer,
        aggregator: optax.GradientTransformation,
        *,
        name: str = "run",
    ):
        if config.batch_size > len(split.images):
            raise ValueError(
                f"batch_size must be at most the {len(split.images)} images of the "
                f"split, got {config.batch_size}"
            )
        self.config = config
        self.split = split
        self.history = RunHistory(
            name=name,
            objective_names=OBJECTIVES,
            objective_weights=config.objective_weights,
        )
        self.history.losses = {objective: [] for objective in OBJECTIVES}
        self._recipe = _recipe(
            # Runs that differ in the seed alone share one compilation.
            dataclasses.replace(config, seed=0),
            aggregator,
            len(split.images) // config.batch_size,
        )
        model = _build_model(config, backbone, split.num_classes)
        self._graphdef, trainable, self._frozen = nnx.split(
            model, model.is_trainable, ...
        )
        params = nnx.to_pure_dict(trainable)
        self._carry = params, jax.jit(self._recipe.optimizer.init)(params)
        self._key = jax.random.key(config.seed)
        self._prepare(model)
        self.evaluation = self._evaluate()
        self.pretrained_features = self.evaluation.features

    def _prepare(self, model: DiscoveryModel) -> None:
        split = self.split
        self._data = (
            self._frozen,
            jnp.asarray(split.images),
            jnp.asarray(split.training_labels),
            jnp.asarray(split.labeled_mask),
        )
        # The prefix never changes: its tokens of the evaluated images neither.
        unlabeled = jnp.asarray(split.images[~split.labeled_mask])
        self._tokens = nnx.jit(DiscoveryModel.tokens)(model, unlabeled)

    @property
    def model(self) -> DiscoveryModel:
        """The model after the last finished epoch."""
        return _merge(self._graphdef, self._carry[0], self._frozen)

    def __iter__(self) -> Iterator[int]:
        """Trains the epochs that are left; yields the number of each finished one."""
        for epoch in range(len(self.history.epochs), self.config.epochs):
            started = time.perf_counter()
            # Assigned only when it is over, and not donated: an interrupt leaves the
            # last finished epoch's model. The scan inside reuses its buffers anyway.
            self._carry, epoch_losses = jax.block_until_ready(
                _run_epoch(
                    self._recipe,
                    self._graphdef,
                    self._carry,
                    jax.random.fold_in(self._key, epoch),
                    _teacher_temperature(self.config, epoch),
                    self._data,
                )
            )
            self.evaluation = self._evaluate()
            self._record(epoch + 1, epoch_losses, time.perf_counter() - started)
            yield epoch + 1

    def _evaluate(self) -> Evaluation:
        features, logits = _predict(
            self._graphdef, self._carry[0], self._frozen, self._tokens
        )
        predictions = np.asarray(logits).argmax(axis=1)
        unlabeled = ~self.split.labeled_mask
        accuracy = cluster_accuracy(
            self.split.labels[unlabeled],
            predictions,
            self.split.old_mask[unlabeled],
        )
        return Evaluation(accuracy, predictions, np.asarray(features))

    def _record(self, epoch: int, epoch_losses: jax.Array, seconds: float) -> None:
        history = self.history
        history.accuracy.append(self.evaluation.accuracy)
        for objective, value in zip(OBJECTIVES, epoch_losses, strict=True):
            history.losses[objective].append(float(value))
        if optax.tree.get_all_with_path(self._carry[1], SoftGateState.__name__):
            report = diagnostics.report(self._carry[1])
            history.layers = list(report.layers)
            history.gate.append(report.gates)
            history.energy.append(report.energies)
        history.seconds.append(seconds)
        history.epochs.append(epoch)


class _Recipe(NamedTuple):
    """What an epoch's compilation depends on; hashable."""

    config: TrainConfig
    optimizer: optax.GradientTransformation
    steps: int  # per epoch


@functools.lru_cache(maxsize=16)
def _recipe(
    config: TrainConfig, aggregator: optax.GradientTransformation, steps: int
) -> _Recipe:
    schedule = optax.cosine_decay_schedule(
        config.learning_rate,
        config.epochs * steps,
        alpha=config.final_learning_rate / config.learning_rate,
    )
    optimizer = optax.chain(
        aggregator,
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.sgd(schedule, momentum=config.momentum),
    )
    return _Recipe(config, optimizer, steps)


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _build_model(
    config: TrainConfig, backbone: VisionTransformer, num_classes: int
) -> DiscoveryModel:
    @nnx.jit  # one compilation; op by op, the first start would take seconds
    def build_head():
        return SimGCDHead(
            backbone.config.width,
            num_classes,
            hidden=config.head_hidden,
            projection=config.head_projection,
            extra_layer=config.extra_head_layer,
            rngs=nnx.Rngs(config.seed),
        )

    head = build_head()
    return DiscoveryModel(backbone, head, trainable_blocks=config.trainable_blocks)


def _teacher_temperature(config: TrainConfig, epoch: int) -> jax.Array:
    """Falls linearly over the warm-up's epochs, both ends included; then stays."""
    first, last = config.teacher_temperature, config.final_teacher_temperature
    done = min(epoch / max(config.teacher_warmup_epochs - 1, 1), 1.0)
    if config.teacher_warmup_epochs == 0:
        done = 1.0
    return jnp.float32(first + (last - first) * done)


def _merge(graphdef: nnx.GraphDef, params: Any, frozen: nnx.State) -> DiscoveryModel:
    return nnx.merge(graphdef, nnx.State(params), frozen)


@functools.partial(jax.jit, static_argnames=("recipe", "graphdef"))
def _run_epoch(recipe, graphdef, carry, key, temperature, arrays):
    """All steps of one epoch; returns the new carry and the mean losses (2,)."""
    config, optimizer, steps = recipe
    frozen, images, labels, labeled_mask = arrays
    draw_key, view_key = jax.random.split(key)
    shape = (steps, config.batch_size)
    indices = data.sample_indices(draw_key, labeled_mask, shape)

    def step(carry, inputs):
        params, opt_state = carry
        chosen, key = inputs
        views = data.two_views(key, images[chosen], config.augmentation)
        # Outside of the differentiated function: the prefix runs once per batch.
        tokens = _merge(graphdef, params, frozen).tokens(views)
        batch = Batch(tokens, labels[chosen], labeled_mask[chosen], temperature)

        def losses_fn(params):
            outputs = _merge(graphdef, params, frozen)(batch.tokens)
            return simgcd_objectives(*outputs, batch, config)

        values, gradients = value_and_grads(losses_fn)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), jnp.stack(values)

    keys = jax.random.split(view_key, steps)
    carry, values = jax.lax.scan(step, carry, (indices, keys))
    return carry, values.mean(axis=0)


@functools.partial(jax.jit, static_argnames="graphdef")
def _predict(graphdef, params, frozen, tokens):
    model = _merge(graphdef, params, frozen)
    features = model.features(tokens)
    return features, model.head(features)[1]
