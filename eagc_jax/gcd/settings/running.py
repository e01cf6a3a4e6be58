"""What a run is made of besides its data, as plain values: to write, read and replay."""

from __future__ import annotations

import dataclasses
import os

import jax
import numpy as np
from jax.sharding import Mesh

from eagc_jax._files import JsonObject
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.backbones import neighbours as find_neighbours
from eagc_jax.gcd.methods import Method, SimGCD
from eagc_jax.gcd.settings.plain import from_plain, to_plain
from eagc_jax.gcd.sources import Kind, Records
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.augmentation import Augmentation
from eagc_jax.gcd.training.checkpoints import Checkpoints
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.reference import train_reference
from eagc_jax.gcd.training.settings import (
    AdapterConfig,
    FeatureCoordination,
    ReferenceConfig,
    TrainConfig,
    WarmStart,
)
from eagc_jax.gcd.training.view_features import view_features
from eagc_jax.gcd.training.views import ViewPool


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What makes one run: together with the data and the backbone, every number of it."""

    method: Method = SimGCD()  # noqa: RUF009  (frozen)
    training: TrainConfig = TrainConfig()  # noqa: RUF009
    aggregator: Aggregation | None = None  # None: the weighted sum in one backward pass
    coordination: FeatureCoordination | None = None  # at the feature
    # The run starts from this reference model, and its coordination refers to it; None:
    # the backbone is both.
    reference: ReferenceConfig | None = None

    def start(
        self,
        records: Records,
        backbone: Backbone | None = None,
        pool: ViewPool | None = None,
        *,
        features: np.ndarray | None = None,
        neighbours: np.ndarray | None = None,
        num_classes: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        mesh: Mesh | None = None,
        name: str = "run",
        checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
    ) -> TrainingRun:
        """The run, not yet trained; its reference model is.

        Args:
          records: the data.
          backbone: pretrained; with `features` it is needed for augmented views alone.
          pool: views drawn before, or None.
          features: (N, D), where an adapter or nothing trains below the heads.
          neighbours: (N, k) int32, each item's nearest others; None to find them.
          num_classes: known plus novel classes; None where the truth is known.
          cache: folder in which neighbours and features of views are kept; None keeps
            nothing.
          mesh: devices over which batches are divided, or None; the reference model is
            trained on one device, by every process.
          name: of the run.
          checkpoints: where the run is saved, to go on from there; see `TrainingRun`. The
            reference model is trained anew each time.

        Returns:
          A run to iterate over.

        Raises:
          ValueError: as `TrainingRun` and `train_reference`.
        """
        weights = self.method.objective_weights
        if self.reference is not None and self.training.trains != "blocks":
            raise ValueError(
                "reference is trained by its last blocks, on images; on features use "
                f"training.warm_start instead (trains = {self.training.trains!r})"
            )
        if pool is None and features is not None:
            pool = self._views(records, backbone, cache)
        if neighbours is None and features is not None:
            neighbours = self._neighbours(features, cache)
        reference = None
        if self.reference is not None:
            if backbone is None:
                raise ValueError("backbone is needed to train the reference model")
            reference = train_reference(self.reference, records, backbone, pool)
        return TrainingRun(
            self.training,
            records,
            backbone if reference is None else reference,
            None if self.aggregator is None else self.aggregator.build(weights),
            method=self.method,
            coordination=self.coordination,
            reference=reference,
            pool=pool,
            features=features,
            neighbours=neighbours,
            num_classes=num_classes,
            mesh=mesh,
            name=name,
            checkpoints=checkpoints,
        )

    def _views(
        self,
        records: Records,
        backbone: Backbone | None,
        cache: str | os.PathLike[str] | None,
    ) -> ViewPool | None:
        number = self.training.adapter.augmented_views
        if self.training.trains != "adapter" or not number:
            return None
        if backbone is None:
            raise ValueError(
                "backbone is needed for augmented_views: their features are computed"
            )
        augmentation, seed = self.training.augmentation, self.training.seed
        return view_features(
            records, backbone, augmentation, views=number, seed=seed, cache=cache
        )

    def _neighbours(
        self, features: np.ndarray, cache: str | os.PathLike[str] | None
    ) -> np.ndarray | None:
        number = self.training.adapter.neighbours
        if self.training.trains == "blocks" or not number:
            return None
        return find_neighbours(features, number, cache=cache)

    def describe(self) -> JsonObject:
        """Plain values for JSON, from which `read_runs` makes the same settings."""
        return to_plain(self)


def on_features(
    *, epochs: int = 20, neighbours: int = 0, seed: int = 0, **training: object
) -> RunSettings:
    """SimGCD on features that were computed before, with an adapter and a warm start.

    SimGCD's published settings, but for what suits features of length 1 and no more than
    minutes: twenty epochs, larger batches, the heads' rate ten times the adapter's.

    Args:
      epochs: of the run; the teacher's temperature falls in the first three tenths.
      neighbours: the second view of an unlabeled row is one of so many nearest rows, or
        itself; 0: itself.
      seed: of heads, batches and views.
      **training: further fields of `TrainConfig`.

    Examples:
      >>> on_features(epochs=10).training.trains
      'adapter'
    """
    method = SimGCD(
        teacher_warmup_epochs=max(round(0.3 * epochs), 1),
        head_hidden=384,
        head_projection=128,
    )
    config = TrainConfig(
        epochs=epochs,
        seed=seed,
        batch_size=256,
        learning_rate=1.0,  # of the heads; the adapter's is a tenth of it
        final_learning_rate=1e-3,
        trains="adapter",
        adapter=AdapterConfig(neighbours=neighbours),
        warm_start=WarmStart(),
        log_every=0,
        evaluate_every=epochs,
    )
    return RunSettings(method, dataclasses.replace(config, **training))


# Crops and flips, as SimGCD has them for photos.
PHOTOS = Augmentation(
    rotation=0.0, zoom=0.0, shear=0.0, shift=0.0, contrast=0.0, flip=0.5, crop=0.5
)


def on_images(*, epochs: int = 20, seed: int = 0, **training: object) -> RunSettings:
    """SimGCD on photos, with the backbone's last block: its published settings.

    Args:
      epochs: of the run; the teacher's temperature falls in the first 15 hundredths.
      seed: of heads, batches and views.
      **training: further fields of `TrainConfig`.

    Examples:
      >>> on_images().training.augmentation.flip
      0.5
    """
    method = SimGCD(teacher_warmup_epochs=max(round(0.15 * epochs), 1))
    config = TrainConfig(
        epochs=epochs,
        seed=seed,
        augmentation=PHOTOS,
        log_every=0,
        evaluate_every=epochs,
    )
    return RunSettings(method, dataclasses.replace(config, **training))


def recommended(
    kind: Kind, depth: int, *, seed: int = 0, items: int | None = None
) -> RunSettings:
    """How to train where nothing is said.

    An adapter on the features, with ten neighbours; on an accelerator, and for photos,
    the backbone's last block, whose forward pass a CPU takes too long for.

    Args:
      kind: of the items.
      depth: of the backbone, in blocks that can train.
      seed: of the run.
      items: how many there are: a batch has at most as many, and an item as many
        neighbours.
    """
    if kind == "image" and depth and jax.default_backend() != "cpu":
        found = on_images(seed=seed)
    else:
        found = on_features(neighbours=10, seed=seed)
    return found if items is None else _for_few(found, items)


def _for_few(settings: RunSettings, items: int) -> RunSettings:
    training = settings.training
    adapter = dataclasses.replace(
        training.adapter, neighbours=min(training.adapter.neighbours, items - 1)
    )
    batch_size = min(training.batch_size, items)
    training = dataclasses.replace(training, batch_size=batch_size, adapter=adapter)
    return dataclasses.replace(settings, training=training)


def read_runs(settings: JsonObject) -> dict[str, RunSettings]:
    """What `eagc_jax.gcd.runs.results.describe_settings` wrote, to replay the runs.

    Args:
      settings: the parsed config.json.

    Returns:
      Each run's settings by name.

    Raises:
      KeyError: settings without runs.
      ValueError: an entry that isn't known, or a method that is not in
        `eagc_jax.gcd.methods.METHODS`.

    Examples:
      >>> from eagc_jax.gcd.runs.results import describe_settings
      >>> runs = {"plain": RunSettings(training=TrainConfig(seed=3))}
      >>> read_runs(describe_settings(runs)) == runs
      True
    """
    return {
        name: from_plain(RunSettings, entry) for name, entry in settings["runs"].items()
    }
