"""Training on several objectives, with any method and any aggregator.

With or without the coordinator at the feature; everything else is the same for every
run.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from eagc_jax import diagnostics, features
from eagc_jax.gating import SoftGateState
from eagc_jax.gcd import data
from eagc_jax.gcd.evaluation.accuracy import Accuracy, cluster_accuracy
from eagc_jax.gcd.methods import Method, SimGCD
from eagc_jax.gcd.models import DiscoveryModel, VisionTransformer
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.training import parallel, step, views
from eagc_jax.gcd.training.epoch import (
    Data,
    Recipe,
    features_of,
    merge,
    optimizer_of,
    run_epoch,
)
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig

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
      mesh: devices over which every batch is divided, of one process or several:
        `eagc_jax.gcd.training.parallel.data_mesh()`; None for one device. Every process
        makes the same run, and ends up with the same history.
      name: of the run in tables and figures.

    Raises:
      ValueError: the images do not fit the backbone, the batch is larger than the data
        set or no multiple of the devices, the reference or the pool has another frozen
        prefix, or processes have different runs.

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
        mesh: Mesh | None = None,
        name: str = "run",
    ):
        method = SimGCD() if method is None else method
        if mesh is not None and jax.process_count() > 1:  # before anything can differ
            parallel.check_same(
                {f"config.{k}": v for k, v in dataclasses.asdict(config).items()}
                | {"method": method, "coordination": coordination}
                | {"data": parallel.digest(dataclasses.asdict(split))}
                | {"views": parallel.digest(pool)}
                | {"backbone": _digest(backbone), "reference": _digest(reference)}
            )
        parallel.check_divides("batch_size", config.batch_size, mesh)
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
        self._mesh = mesh
        self._recipe = Recipe(
            # Runs that differ in the seed alone share one compilation.
            dataclasses.replace(config, seed=0),
            method,
            optimizer_of(
                dataclasses.replace(config, seed=0),
                aggregator,
                len(split.images) // config.batch_size,
            ),
            aggregator is None,
            coordination,
            len(split.images) // config.batch_size,
            mesh,
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
        self._check_optimizer(params, opt_state)
        self._carry = parallel.replicate(
            (params, opt_state, self._first_state(params)), mesh
        )
        self._reference = parallel.replicate(self._reference, mesh)
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
        images = jnp.asarray(split.images)
        self._data = parallel.replicate(
            Data(
                self._frozen,
                images,
                jnp.asarray(split.training_labels),
                jnp.asarray(split.labeled_mask),
                jnp.int32(split.num_known),
                None if pool is None else pool.tokens,
            ),
            self._mesh,
        )
        # The prefix never changes: its tokens of the evaluated images neither.
        self._tokens = self._divided_tokens(model, images)

    def _divided_tokens(self, model: DiscoveryModel, images: jax.Array) -> jax.Array:
        """The prefix's tokens of all images, each process's own rows computed by it."""
        if self._mesh is None:
            return views.frozen_tokens(model.backbone, images, model.frozen_blocks)
        number = len(images)
        padded = number + -number % self._mesh.size
        # The last image fills up what is missing to equal shares.
        rows = np.minimum(parallel.own_rows(padded, self._mesh), number - 1)
        own = views.frozen_tokens(model.backbone, images[rows], model.frozen_blocks)
        return parallel.divide(own, padded, self._mesh)

    def _check_optimizer(self, params: dict[str, Any], opt_state: Any) -> None:
        """Raises ValueError where processes have other aggregators: other programs."""
        if self._mesh is None or jax.process_count() == 1:
            return
        number = len(self.method.objective_names)
        lead = () if self._recipe.summed else (number,)
        gradients = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct((*lead, *p.shape), p.dtype), params
        )
        losses = jax.ShapeDtypeStruct((number,), jnp.float32)
        update = jax.jit(self._recipe.optimizer.update)
        program = update.lower(gradients, opt_state, params, value=losses).as_text()
        parallel.check_same({"aggregator": parallel.digest(program)})

    def _features_of_all(self, params: dict[str, Any]) -> jax.Array:
        """Of the split's images, as an array of this process; parameters on the mesh."""
        frozen = self._data.frozen
        found = features_of(self._graphdef, params, frozen, self._tokens, self._mesh)
        return self._own(found)[: len(self.split.images)]

    def _own(self, tree: Any) -> Any:
        """This process's copy of what every device has."""
        return tree if self._mesh is None else parallel.local(tree)

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
        found = self._features_of_all(parallel.replicate(blocks, self._mesh))
        return _coordinator_of(settings, found, self.split.labeled_mask)

    @property
    def model(self) -> DiscoveryModel:
        """The model after the last finished epoch."""
        return merge(self._graphdef, self._own(self._carry[0]), self._frozen)

    @property
    def coordinator(self) -> features.CoordinatorState | None:
        """Conceptor and labeled reference after the last finished epoch."""
        return self._own(self._carry[2])

    def __iter__(self) -> Iterator[int]:
        """Trains the epochs that are left; yields the number of each finished one."""
        for epoch in range(len(self.history.epochs), self.config.epochs):
            started = time.perf_counter()
            # Assigned only when it is over, and not donated: an interrupt leaves the
            # last finished epoch's model. The scan inside reuses its buffers anyway.
            carry, traces = jax.block_until_ready(
                run_epoch(
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
        found = self._features_of_all(params)
        state = _coordinator_of(settings, found, self.split.labeled_mask)
        return params, opt_state, parallel.replicate(state, self._mesh)

    def _evaluate(self) -> Evaluation:
        split = self.split
        found = self._features_of_all(self._carry[0])
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
        traces = jax.tree.map(np.asarray, self._own(traces))
        history.accuracy.append(self.evaluation.accuracy)
        for k, objective in enumerate(history.objective_names):
            history.losses[objective].append(float(traces.losses[:, k].mean()))
        opt_state = self._own(self._carry[1])
        if optax.tree.get_all_with_path(opt_state, SoftGateState.__name__):
            report = diagnostics.report(opt_state)
            history.layers = list(report.layers)
            history.gate.append(report.gates)
            history.energy.append(report.energies)
        history.subspace_overlap.append(self.evaluation.subspace_overlap)
        history.traces.append(traces)
        history.seconds.append(seconds)
        history.step_seconds.append(training / self._recipe.steps)
        history.epochs.append(epoch)


def _digest(backbone: VisionTransformer | None) -> str:
    arrays = None if backbone is None else nnx.to_pure_dict(nnx.state(backbone))
    return parallel.digest(arrays)


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
