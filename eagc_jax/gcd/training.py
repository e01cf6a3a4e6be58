"""Training on several objectives, with any method and any aggregator.

With or without the coordinator at the feature; everything else is the same for every
run.
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

from eagc_jax import diagnostics, features
from eagc_jax.gating import SoftGateState
from eagc_jax.gcd import data, step, views
from eagc_jax.gcd.config import FeatureCoordination, TrainConfig
from eagc_jax.gcd.history import RunHistory
from eagc_jax.gcd.methods import Method, SimGCD
from eagc_jax.gcd.methods.base import Batch
from eagc_jax.gcd.metrics import Accuracy, cluster_accuracy
from eagc_jax.gcd.models import DiscoveryModel, VisionTransformer

__all__ = ["Evaluation", "FeatureCoordination", "TrainConfig", "TrainingRun"]

SOC_COMPONENTS = 16  # as published


class Evaluation(NamedTuple):
    """What the model makes of the unlabeled training images, without augmentation."""

    accuracy: Accuracy
    predictions: np.ndarray  # (N,) cluster numbers
    features: np.ndarray  # (N, width) float32
    subspace_overlap: float  # SOC of novel images with labeled ones; needs true classes


# Of an epoch that was not evaluated.
_UNKNOWN = Evaluation(
    Accuracy(float("nan"), float("nan"), float("nan")),
    np.zeros(0, np.int64),
    np.zeros((0, 0), np.float32),
    float("nan"),
)


class TrainingRun:
    """One run: iterate over it to train, an epoch at a time.

    `history` and `evaluation` always describe the epochs that are finished, so a loop
    that is interrupted leaves a valid, shorter run. `pretrained_features` are those of
    the evaluated images before any training. Two runs with the same config, method,
    split and backbone start from the same heads and see the same batches and views.

    Args:
      config: how to train.
      split: images, labels where they may be used, and where they may not.
      backbone: what training starts from; it is not modified.
      aggregator: an Optax transformation from leaves `(2, *shape)` to leaves
        `(*shape)`, such as `eagc_jax.sum_objectives` or `eagc_jax.eagc`; None for the
        weighted sum in one backward pass instead of two.
      method: heads, objectives and the rule to predict.
      coordination: what is done to the gradients at the feature, or None.
      reference: a model that the coordination refers to, which may differ from
        `backbone` in the trained blocks alone; None for `backbone` itself.
      pool: views drawn before, to share them among runs; None for new views each step.
      name: of the run in tables and figures.

    Raises:
      ValueError: the images do not fit the backbone, the batch is larger than the data
        set, or the reference or the pool has another frozen prefix.

    Examples:
      >>> from eagc_jax import sum_objectives
      >>> from eagc_jax.gcd.checkpoints import load_backbone
      >>> split = data.split_categories(data.load_digits(), range(5))
      >>> method = SimGCD()
      >>> run = TrainingRun(
      ...     TrainConfig(), split, load_backbone(),
      ...     sum_objectives(method.objective_weights), method=method,
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
        aggregator: optax.GradientTransformation | None = None,
        *,
        method: Method | None = None,
        coordination: FeatureCoordination | None = None,
        reference: VisionTransformer | None = None,
        pool: views.ViewPool | None = None,
        name: str = "run",
    ):
        method = SimGCD() if method is None else method
        if config.batch_size > len(split.images):
            raise ValueError(
                f"batch_size must be at most the {len(split.images)} images of the "
                f"split, got {config.batch_size}"
            )
        self.config = config
        self.split = split
        self.method = method
        self.history = RunHistory(
            name=name,
            objective_names=method.objective_names,
            objective_weights=method.objective_weights,
        )
        self.history.losses = {objective: [] for objective in method.objective_names}
        self._recipe = _Recipe(
            # Runs that differ in the seed alone share one compilation.
            dataclasses.replace(config, seed=0),
            method,
            _optimizer(
                dataclasses.replace(config, seed=0),
                aggregator,
                len(split.images) // config.batch_size,
            ),
            aggregator is None,
            coordination,
            len(split.images) // config.batch_size,
        )
        model = _build_model(config, method, backbone, split.num_classes)
        self._graphdef, trainable, self._frozen = nnx.split(
            model, model.is_trainable, ...
        )
        params = nnx.to_pure_dict(trainable)
        self.history.parameters = list(step.layer_names(params))
        self._key = jax.random.key(config.seed)
        self._prepare(model, pool)
        self._reference = self._reference_blocks(params, backbone, reference)
        opt_state = jax.jit(self._recipe.optimizer.init)(params)
        self._carry = params, opt_state, self._first_state(params)
        self.evaluation = self._evaluate()
        self.pretrained_features = self.evaluation.features

    def _prepare(self, model: DiscoveryModel, pool: views.ViewPool | None) -> None:
        split = self.split
        if pool is not None and pool.frozen_blocks != model.frozen_blocks:
            raise ValueError(
                f"pool has {pool.frozen_blocks} frozen blocks behind it, the model "
                f"{model.frozen_blocks}"
            )
        if pool is not None and len(pool.tokens) != len(split.images):
            raise ValueError(
                f"pool has {len(pool.tokens)} images, the split {len(split.images)}"
            )
        self._data = _Data(
            self._frozen,
            jnp.asarray(split.images),
            jnp.asarray(split.training_labels),
            jnp.asarray(split.labeled_mask),
            jnp.int32(split.num_known),
            None if pool is None else pool.tokens,
        )
        # The prefix never changes: its tokens of the evaluated images neither.
        self._tokens = views.frozen_tokens(
            model.backbone, self._data.images, model.frozen_blocks
        )

    def _reference_blocks(
        self,
        params: dict[str, Any],
        backbone: VisionTransformer,
        reference: VisionTransformer | None,
    ) -> Any:
        """The trained blocks of the reference model; nothing without coordination."""
        if self._recipe.coordination is None:
            return None
        if reference is None or reference is backbone:
            return params.get("backbone", {})
        model = DiscoveryModel(
            reference,
            nnx.Module(),
            trainable_blocks=self.config.trainable_blocks,
        )
        _, trained, frozen = nnx.split(model, model.is_trainable, ...)
        own = nnx.to_pure_dict(self._frozen).get("backbone", {})
        theirs = nnx.to_pure_dict(frozen).get("backbone", {})
        same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), own, theirs)
        if not all(jax.tree.leaves(same)):
            raise ValueError(
                "reference must have the backbone's frozen prefix: train it with the "
                "same trainable_blocks, from the same backbone"
            )
        return nnx.to_pure_dict(trained).get("backbone", {})

    def _first_state(self, params: dict[str, Any]) -> features.CoordinatorState | None:
        settings = self._recipe.coordination
        if settings is None:
            return None
        blocks = {**params, "backbone": self._reference}
        found = _features(self._graphdef, blocks, self._frozen, self._tokens)
        return _coordinator_of(settings, found, self.split.labeled_mask)

    @property
    def model(self) -> DiscoveryModel:
        """The model after the last finished epoch."""
        return _merge(self._graphdef, self._carry[0], self._frozen)

    @property
    def coordinator(self) -> features.CoordinatorState | None:
        """Conceptor and labeled reference after the last finished epoch."""
        return self._carry[2]

    def __iter__(self) -> Iterator[int]:
        """Trains the epochs that are left; yields the number of each finished one."""
        for epoch in range(len(self.history.epochs), self.config.epochs):
            started = time.perf_counter()
            # Assigned only when it is over, and not donated: an interrupt leaves the
            # last finished epoch's model. The scan inside reuses its buffers anyway.
            carry, traces = jax.block_until_ready(
                _run_epoch(
                    self._recipe,
                    self._graphdef,
                    self._carry,
                    jax.random.fold_in(self._key, epoch),
                    jnp.float32(epoch),
                    self._reference,
                    self._data,
                )
            )
            seconds = time.perf_counter() - started
            self._carry = self._refreshed(carry, epoch + 1)
            due = (epoch + 1) % self.config.evaluate_every == 0
            if due or epoch + 1 == self.config.epochs:
                self.evaluation = self._evaluate()
            else:
                self.evaluation = _UNKNOWN
            self._record(epoch + 1, traces, seconds, time.perf_counter() - started)
            yield epoch + 1

    def _refreshed(self, carry: tuple, epoch: int) -> tuple:
        """The carry with a conceptor of the student's features, where one is due."""
        settings = self._recipe.coordination
        if settings is None or settings.refresh_epochs == 0:
            return carry
        if epoch % settings.refresh_epochs:
            return carry
        params, opt_state, _ = carry
        found = _features(self._graphdef, params, self._frozen, self._tokens)
        state = _coordinator_of(settings, found, self.split.labeled_mask)
        return params, opt_state, state

    def _evaluate(self) -> Evaluation:
        split = self.split
        found = _features(self._graphdef, self._carry[0], self._frozen, self._tokens)
        clusters = self.method.predict(
            self.model.head,
            found,
            split.training_labels,
            split.num_classes,
            self.config.seed,
        )
        unlabeled = ~split.labeled_mask
        accuracy = cluster_accuracy(
            split.labels[unlabeled], clusters[unlabeled], split.old_mask[unlabeled]
        )
        found = np.asarray(found)
        overlap = diagnostics.subspace_overlap(
            jnp.asarray(found[split.labeled_mask]),
            jnp.asarray(found[~split.old_mask]),
            k=min(SOC_COMPONENTS, found.shape[1]),
        )
        return Evaluation(
            accuracy, clusters[unlabeled], found[unlabeled], float(overlap)
        )

    def _record(
        self, epoch: int, traces: step.Trace, training: float, seconds: float
    ) -> None:
        history = self.history
        traces = jax.tree.map(np.asarray, traces)
        history.accuracy.append(self.evaluation.accuracy)
        for k, objective in enumerate(history.objective_names):
            history.losses[objective].append(float(traces.losses[:, k].mean()))
        if optax.tree.get_all_with_path(self._carry[1], SoftGateState.__name__):
            report = diagnostics.report(self._carry[1])
            history.layers = list(report.layers)
            history.gate.append(report.gates)
            history.energy.append(report.energies)
        history.subspace_overlap.append(self.evaluation.subspace_overlap)
        history.traces.append(traces)
        history.seconds.append(seconds)
        history.step_seconds.append(training / self._recipe.steps)
        history.epochs.append(epoch)


class _Recipe(NamedTuple):
    """What an epoch's compilation depends on; hashable."""

    config: TrainConfig
    method: Method
    optimizer: optax.GradientTransformation
    summed: bool
    coordination: FeatureCoordination | None
    steps: int  # per epoch


class _Data(NamedTuple):
    frozen: Any
    images: jax.Array
    labels: jax.Array
    labeled_mask: jax.Array
    num_known: jax.Array
    pool: jax.Array | None  # (N, V, T, width)


@functools.lru_cache(maxsize=64)
def _optimizer(
    config: TrainConfig, aggregator: optax.GradientTransformation | None, steps: int
) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(
        config.learning_rate,
        config.epochs * steps,
        alpha=config.final_learning_rate / config.learning_rate,
    )
    stages = [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.sgd(schedule, momentum=config.momentum),
    ]
    if config.head_rate != 1:
        stages.append(optax.masked(optax.scale(config.head_rate), _is_head))
    chain = optax.chain(*([] if aggregator is None else [aggregator]), *stages)
    return optax.with_extra_args_support(chain)


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _is_head(params: Any) -> Any:
    return {
        name: jax.tree.map(lambda _, name=name: name == "head", part)
        for name, part in params.items()
    }


def _build_model(
    config: TrainConfig, method: Method, backbone: VisionTransformer, num_classes: int
) -> DiscoveryModel:
    @nnx.jit  # one compilation; op by op, the first start would take seconds
    def build_head():
        return method.build_head(
            backbone.config.width, num_classes, rngs=nnx.Rngs(config.seed)
        )

    return DiscoveryModel(
        backbone, build_head(), trainable_blocks=config.trainable_blocks
    )


def _merge(graphdef, params, frozen) -> DiscoveryModel:
    return nnx.merge(graphdef, nnx.State(params), frozen)


def _coordinator_of(
    settings: FeatureCoordination, found: jax.Array, labeled_mask: np.ndarray
) -> features.CoordinatorState:
    """Conceptor and labeled reference of the labeled images' features."""
    labeled = jnp.asarray(found)[np.flatnonzero(labeled_mask)]
    options: dict[str, Any] = {"normalize": settings.normalize, "center": None}
    if settings.center:
        rows = labeled
        if settings.normalize:
            rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        options["center"] = rows.mean(axis=0)
    conceptor = features.conceptor(labeled, settings.aperture, **options)
    energies = features.energy_ratio(labeled, conceptor, **options)
    return features.init_coordinator(conceptor, energies, center=options["center"])


@functools.partial(jax.jit, static_argnames=("recipe", "graphdef"))
def _run_epoch(recipe, graphdef, carry, key, epoch, reference, arrays):
    """All steps of one epoch; returns the new carry and the traces of all steps."""
    config = recipe.config
    frozen, images, labels, labeled_mask, num_known, pool = arrays
    draw_key, view_key = jax.random.split(key)
    shape = (recipe.steps, config.batch_size)
    indices = data.sample_indices(draw_key, labeled_mask, shape)

    def rebuild(params):
        return _merge(graphdef, params, frozen)

    problem = step.Problem(recipe.method, rebuild, recipe.summed)

    def one(carry, inputs):
        params, opt_state, state = carry
        number, chosen, key = inputs
        # Outside of the differentiated function: the prefix runs once per batch.
        if pool is None:
            seen = data.two_views(key, images[chosen], config.augmentation)
            tokens = rebuild(params).tokens(seen)
        else:
            tokens = views.draw(key, pool, chosen)
        batch = Batch(labels[chosen], labeled_mask[chosen], epoch, num_known)
        coordination = None
        if recipe.coordination is not None:
            strength = _strength(recipe.coordination, epoch)
            coordination = step.Coordination(
                recipe.coordination, reference, state, strength
            )
        measure = False
        if config.log_every:
            measure = number % config.log_every == 0
        gradients, state, seen = step.gradients(
            problem, params, tokens, batch, coordination, measure
        )
        # Losses are for aggregators that look at them; others don't see the keyword.
        updates, opt_state = recipe.optimizer.update(
            gradients, opt_state, params, value=seen["losses"]
        )
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state), step.trace(seen, opt_state)

    keys = jax.random.split(view_key, recipe.steps)
    return jax.lax.scan(one, carry, (jnp.arange(recipe.steps), indices, keys))


def _strength(settings: FeatureCoordination, epoch: jax.Array) -> jax.Array:
    if settings.decay_epochs == 0:
        return jnp.float32(1.0)
    return jnp.clip(1 - epoch / settings.decay_epochs, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames="graphdef")
def _features(graphdef, params, frozen, tokens):
    return _merge(graphdef, params, frozen).features(tokens)
