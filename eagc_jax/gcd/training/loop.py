"""Training on several objectives, with any method and any aggregator.

With or without the coordinator at the feature; everything else is the same for every
run.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from eagc_jax import features
from eagc_jax.gcd.backbones.cache.arrays import keep_array, kept_array
from eagc_jax.gcd.methods import DataView, Method, SimGCD, Task
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training import measures, parallel, step, views
from eagc_jax.gcd.training.building import (
    build_inputs,
    build_model,
    number_of_classes,
    reference_part,
)
from eagc_jax.gcd.training.checkpoints import (
    Checkpoints,
    Damaged,
    facts,
    finished,
    keeper,
)
from eagc_jax.gcd.training.checkpoints.manifest import Place
from eagc_jax.gcd.training.checkpoints.state import Inside
from eagc_jax.gcd.training.chunks import Begun, train_epoch
from eagc_jax.gcd.training.epoch import (
    Carry,
    Constants,
    Recipe,
    merge,
    optimizer_of,
    program_of,
)
from eagc_jax.gcd.training.evaluating import (
    Evaluation,
    assign_all,
    coordinator_of,
    evaluate,
    not_evaluated,
)
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.recording import record
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig
from eagc_jax.gcd.training.warm import first_carry, warm_up
from eagc_jax.gcd.training.whole import WholeData
from eagc_jax.typing import OptState, Params, PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone

__all__ = ["Evaluation", "FeatureCoordination", "TrainConfig", "TrainingRun"]


class TrainingRun:
    """One run: iterate over it to train, an epoch at a time.

    `history` and `evaluation` always describe the epochs that are finished, so a loop
    that is interrupted leaves a valid, shorter run. `pretrained_features` are those of
    the unlabeled items before any training. Two runs with the same config, method,
    records and backbone start from the same heads and see the same batches and views.

    Args:
      config: how to train.
      records: the items, and labels where they may be used. Images are an array of one
        size, in memory or memory-mapped; with `features`, items are not looked at.
      backbone: what training starts from; it is not modified. None with `features`.
      aggregator: an Optax transformation from leaves `(K, *shape)` to leaves
        `(*shape)`, such as `eagc_jax.sum_objectives` or `eagc_jax.eagc`; None for the
        weighted sum in one backward pass instead of K.
      method: heads, objectives and the rule to assign.
      coordination: what is done to the gradients at the feature, or None.
      reference: a model that the coordination refers to, which may differ from
        `backbone` in the trained blocks alone; None for `backbone` itself.
      pool: views drawn before, to share them among runs: of `views.pool_views`, or on
        features of `view_features.view_features`; None for new views each step.
      features: (N, D), of the items, where an adapter or nothing trains below the heads:
        from `eagc_jax.gcd.backbones.embed`.
      neighbours: (N, k) int32, each item's nearest others, where
        `config.adapter.neighbours` asks for them; None to find them here.
      num_classes: known plus novel classes; None where the records know the truth.
      mesh: devices over which every batch is divided, of one process or several:
        `eagc_jax.gcd.training.parallel.data_mesh()`; None for one device. Every process
        makes the same run, and ends up with the same history.
      name: of the run in tables and figures.
      checkpoints: the folder in which the run is saved, or how often as well. A run with
        the same settings that is made with the same folder, in another process, goes on
        where that was; on a CPU it ends with the same bits.

    Raises:
      OSError: the checkpoints' folder can't be written, or is in use.
      ValueError: the items do not fit the backbone, the batch is larger than the data
        set or no multiple of the devices, the reference or the pool has another frozen
        prefix, the number of classes is missing, processes have different runs, or the
        checkpoints are another run's or damaged.

    Examples:
      >>> from eagc_jax import sum_objectives
      >>> from eagc_jax.gcd import sources
      >>> from eagc_jax.gcd.backbones.checkpoints import load_backbone
      >>> method = SimGCD()
      >>> run = TrainingRun(
      ...     TrainConfig(), sources.load("digits"), load_backbone(),
      ...     sum_objectives(method.objective_weights), method=method,
      ... )
      >>> run.evaluation.predictions.shape  # of the unlabeled images, untrained
      (1347,)

      `for epoch in run:` then trains; see `examples/gcd_vit.py`.
    """

    def __init__(
        self,
        config: TrainConfig,
        records: Records,
        backbone: Backbone | None = None,
        aggregator: optax.GradientTransformation | None = None,
        *,
        method: Method | None = None,
        coordination: FeatureCoordination | None = None,
        reference: Backbone | None = None,
        pool: views.ViewPool | None = None,
        features: np.ndarray | None = None,
        neighbours: np.ndarray | None = None,
        num_classes: int | None = None,
        mesh: Mesh | None = None,
        name: str = "run",
        checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
    ):
        method = SimGCD() if method is None else method
        if mesh is not None and jax.process_count() > 1:  # before anything can differ
            parallel.check_same(
                {f"config.{k}": v for k, v in dataclasses.asdict(config).items()}
                | {"method": method, "coordination": coordination}
                | {"data": facts.of_records(records), "views": parallel.digest(pool)}
                | {"features": parallel.digest(features)}
                | {"backbone": facts.of_model(backbone)}
                | {"reference": facts.of_model(reference)}
            )
        _check_sizes(config, records, mesh)
        self.config = config
        self.records = records
        self.method = method
        self.history: RunHistory = RunHistory(
            name=name,
            objective_names=method.objective_names,
            objective_weights=method.objective_weights,
        )
        self.history.losses = {objective: [] for objective in method.objective_names}
        self._mesh = mesh
        classes = number_of_classes(records, num_classes)
        model, width = build_model(config, method, backbone, features, classes)
        self.task: Task = Task(len(records), records.num_known, classes, width)
        self._inputs = build_inputs(config, records, model, pool, features, neighbours)
        self._recipe = self._recipe_of(aggregator, coordination)
        self._graphdef, trainable, frozen = nnx.split(model, model.is_trainable, ...)
        self._frozen = frozen
        params = nnx.to_pure_dict(trainable)
        self.history.parameters = list(measures.layer_names(params))
        self._key = jax.random.key(config.seed)
        self._constants = parallel.replicate(
            Constants(
                frozen,
                reference_part(
                    config, coordination, params, frozen, backbone, reference
                ),
                jnp.int32(records.num_known),
            ),
            mesh,
        )
        self._whole = WholeData(self._inputs, self._graphdef, mesh)
        self._carry = self._first_carry(params)
        self._begun = config.warm_start is None  # or is the warm start still to come?
        self._inside: Inside | None = None  # of an epoch that was interrupted
        self.evaluation: Evaluation = self._evaluate()
        self.pretrained_features: np.ndarray = self.evaluation.features
        given = facts.Given(backbone, reference, pool, features, neighbours, aggregator)
        self._keeper = keeper.of(checkpoints, lambda: facts.of_run(self, given))
        self._keeper.restore(self)
        if self.history.epochs:
            self.evaluation = self._evaluation_after(len(self.history.epochs))

    def recall(self, cache: str | os.PathLike[str], content: str = "") -> bool:
        """Makes this the run that `remember` kept for the same settings and data.

        Args:
          cache: a folder.
          content: what stands for the items where the run knows their names alone: of
            images that are read from files when they are needed.

        Returns:
          Whether there was such a run: no epoch is left then.

        Raises:
          OSError: the folder can't be read.
        """
        kept = kept_array(cache, finished.key_of(self, content))
        if kept is None:
            return False
        try:
            finished.put_bytes(self, kept)
        except Damaged as error:
            warnings.warn(f"a kept training is left out: {error}", stacklevel=2)
            return False
        self._inside = None
        self.evaluation = self._evaluation_after(self.config.epochs)
        return True

    def remember(self, cache: str | os.PathLike[str], content: str = "") -> None:
        """Keeps the run, after its last epoch, for `recall`.

        Args:
          cache: a folder.
          content: see `recall`.

        Raises:
          OSError: it can't be written.
          ValueError: epochs are left.
        """
        if len(self.history.epochs) < self.config.epochs:
            raise ValueError(
                f"only a run that has ended is kept; {len(self.history.epochs)} of "
                f"{self.config.epochs} epochs are over: iterate over it first"
            )
        keep_array(cache, finished.key_of(self, content), finished.to_bytes(self))

    def _recipe_of(
        self,
        aggregator: optax.GradientTransformation | None,
        coordination: FeatureCoordination | None,
    ) -> Recipe:
        # Runs that differ in the seed alone share one compilation.
        config = dataclasses.replace(self.config, seed=0)
        steps = len(self.records) // config.batch_size
        return Recipe(
            config,
            self.method,
            optimizer_of(config, aggregator, steps),
            aggregator is None,
            coordination,
            self._inputs.view,
            steps,
            self._mesh,
        )

    def _first_carry(self, params: dict[str, Params]) -> Carry:
        opt_state = jax.jit(self._recipe.optimizer.init)(params)
        self._check_optimizer(params, opt_state)
        placed = parallel.replicate(params, self._mesh)
        return parallel.replicate(
            Carry(
                params,
                opt_state,
                self._first_coordinator(placed),
                self.method.init(self.task),
            ),
            self._mesh,
        )

    def _check_optimizer(self, params: dict[str, Params], opt_state: OptState) -> None:
        """Raises ValueError where processes have other aggregators: other programs."""
        if self._mesh is None or jax.process_count() == 1:
            return
        program = program_of(self._recipe, params, opt_state)
        parallel.check_same({"aggregator": parallel.digest(program)})

    def _first_coordinator(
        self, params: dict[str, Params]
    ) -> features.CoordinatorState | None:
        settings = self._recipe.coordination
        if settings is None:
            return None
        assert self._constants.reference is not None  # the coordination's
        theirs = {**params, **self._constants.reference}
        return coordinator_of(settings, self._features(theirs), self.records)

    def _features(self, params: dict[str, Params]) -> np.ndarray:
        """(N, width), of all items; parameters as they lie on the mesh."""
        return self._whole.features(params, self._constants.frozen)

    def _own(self, tree: PyTree) -> PyTree:
        """This process's copy of what every device has."""
        return tree if self._mesh is None else parallel.local(tree)

    @property
    def model(self) -> DiscoveryModel:
        """The model after the last finished epoch."""
        return merge(self._graphdef, self._own(self._carry.params), self._frozen)

    @property
    def coordinator(self) -> features.CoordinatorState | None:
        """Conceptor and labeled reference after the last finished epoch."""
        return self._own(self._carry.coordinator)

    @property
    def method_state(self) -> PyTree:
        """What the method remembers after the last finished epoch."""
        return self._own(self._carry.method)

    def __iter__(self) -> Iterator[int]:
        """Trains the epochs that are left; yields the number of each finished one.

        With checkpoints, Ctrl-C and SIGTERM end it as soon as a state is whole and saved.
        """
        with self._keeper.at_work(self):
            if not self._begun:
                self._carry = self._warmed()
                self._begun, self._inside = True, None
                self._keeper.over(self)
            for epoch in range(len(self.history.epochs), self.config.epochs):
                self._one_epoch(epoch)
                self._keeper.over(self)
                with self._keeper.outside():
                    yield epoch + 1

    def _one_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        # Assigned only when it is over: an interrupt leaves the last finished epoch's
        # model.
        carry, traces = self._train_epoch(epoch)
        seconds = time.perf_counter() - started
        self._carry = self._between_epochs(carry, epoch + 1)
        self._inside = None
        self.evaluation = self._evaluation_after(epoch + 1)
        record(
            self.history,
            self._own(traces),
            self.evaluation,
            self._own(self._carry.opt_state),
        )
        self.history.seconds.append(time.perf_counter() - started)
        self.history.step_seconds.append(seconds / self._recipe.steps)
        self.history.epochs.append(epoch + 1)

    def _evaluation_after(self, epochs: int) -> Evaluation:
        due = epochs % self.config.evaluate_every == 0 or epochs == self.config.epochs
        return self._evaluate() if due else not_evaluated()

    def _warmed(self) -> Carry:
        carry = warm_up(self._recipe, self._graphdef, self._carry, self)
        carry = parallel.replicate(carry, self._mesh)
        if self._recipe.coordination is None:
            return carry
        # The coordinator refers to the model that training starts from.
        below = step.below_of(carry.params)
        self._constants = self._constants._replace(reference=below)
        state = self._first_coordinator(carry.params)
        return carry._replace(coordinator=parallel.replicate(state, self._mesh))

    def _train_epoch(
        self, epoch: int, recipe: Recipe | None = None, carry: Carry | None = None
    ) -> tuple[Carry, measures.Trace]:
        """An epoch of training, from where it was interrupted; or of a warm start."""
        warm, begun, inside = recipe is not None, None, self._inside
        if inside is not None and inside.place.step:
            begun = Begun(inside.place.step, inside.carry, inside.traces or ())

        def on_chunk(number: int, carry: Carry, traces: list[measures.Trace]) -> None:
            place = Place(not warm, epoch, number)
            self._keeper.inside(self, Inside(place, carry, traces))

        return train_epoch(
            self._recipe if recipe is None else recipe,
            self._graphdef,
            self._carry if carry is None else carry,
            self._constants,
            self._inputs,
            self.records.labels,
            self._key_of(epoch, warm=warm),
            epoch,
            begun,
            on_chunk,
        )

    def _key_of(self, epoch: int, *, warm: bool = False) -> jax.Array:
        """Of an epoch's draws; a warm start has others than training."""
        key = jax.random.fold_in(self._key, epoch)
        return jax.random.fold_in(key, 1) if warm else key

    def _first_warm_carry(self) -> Carry:
        return first_carry(self._recipe, self._carry)

    def _between_epochs(self, carry: Carry, epoch: int) -> Carry:
        """A conceptor of the student's features, where one is due; the method's turn."""
        settings = self._recipe.coordination
        if settings and settings.refresh_epochs and not epoch % settings.refresh_epochs:
            state = coordinator_of(settings, self._features(carry.params), self.records)
            carry = carry._replace(coordinator=parallel.replicate(state, self._mesh))
        head = merge(self._graphdef, self._own(carry.params), self._frozen).head
        old = self._own(carry.method)
        new = self.method.between_epochs(head, old, self._view(carry.params, epoch))
        if new is old:
            return carry
        return carry._replace(method=parallel.replicate(new, self._mesh))

    def _view(self, params: dict[str, Params], epoch: int) -> DataView:
        @functools.cache
        def found() -> np.ndarray:
            return self._features(params)

        labels = self.records.labels
        return DataView(found, labels, self.task, self.config.seed, epoch)

    def assign(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) clusters and (N, width) features of all items, by the model as it is."""
        view = self._view(self._carry.params, len(self.history.epochs))
        state = self.method.before_assignment(self.model.head, self.method_state, view)
        found = view.features()
        clusters = assign_all(
            self.method,
            self._graphdef,
            self._own(self._carry.params),
            self._frozen,
            state,
            found,
        )
        return clusters, found

    def _evaluate(self) -> Evaluation:
        clusters, found = self.assign()
        return evaluate(self.records, found, clusters)


def _check_sizes(config: TrainConfig, records: Records, mesh: Mesh | None) -> None:
    parallel.check_divides("batch_size", config.batch_size, mesh)
    if config.batch_size > len(records):
        raise ValueError(
            f"batch_size must be at most the {len(records)} items of {records.name}, "
            f"got {config.batch_size}"
        )
