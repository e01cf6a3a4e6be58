"""What a run is made of besides its data, as plain values: to write, read and replay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from eagc_jax.gcd import data
from eagc_jax.gcd.methods import METHODS, Method
from eagc_jax.gcd.models import VisionTransformer
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.augmentation import Augmentation
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.reference import ReferenceConfig, train_reference
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig
from eagc_jax.gcd.training.views import ViewPool


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What makes one run differ from another with the same `TrainConfig`.

    Together with the config, the split, the backbone and the pool of views, where there
    is one, this decides every number of a run.
    """

    method: Method
    aggregator: Aggregation | None = None  # None: the weighted sum in one backward pass
    coordination: FeatureCoordination | None = None  # at the feature
    # The run starts from this reference model, and its coordination refers to it; None:
    # the backbone is both.
    reference: ReferenceConfig | None = None

    def start(
        self,
        config: TrainConfig,
        split: data.DiscoverySplit,
        backbone: VisionTransformer,
        pool: ViewPool | None = None,
        *,
        mesh: Mesh | None = None,
        name: str = "run",
    ) -> TrainingRun:
        """The run, not yet trained; its reference model is.

        Args:
          config: how to train.
          split: of the data.
          backbone: pretrained.
          pool: views drawn before, or None.
          mesh: devices over which batches are divided, or None; the reference model is
            trained on one device, by every process.
          name: of the run.

        Returns:
          A run to iterate over.

        Raises:
          ValueError: as `TrainingRun` and `train_reference`.
        """
        weights = self.method.objective_weights
        reference = None
        if self.reference is not None:
            reference = train_reference(self.reference, split, backbone, pool)
        return TrainingRun(
            config,
            split,
            backbone if reference is None else reference,
            None if self.aggregator is None else self.aggregator.build(weights),
            method=self.method,
            coordination=self.coordination,
            reference=reference,
            pool=pool,
            mesh=mesh,
            name=name,
        )

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON, from which `read_runs` makes the same settings."""
        method: Any = self.method
        return {
            "method": {"name": method.name, **dataclasses.asdict(method)},
            "aggregator": _plain(self.aggregator),
            "coordination": _plain(self.coordination),
            "reference": _plain(self.reference),
        }


def read_runs(
    settings: Mapping[str, Any],
) -> tuple[TrainConfig, dict[str, RunSettings]]:
    """What `eagc_jax.gcd.runs.results.describe_settings` wrote, to replay the runs.

    Args:
      settings: the parsed config.json.

    Returns:
      The config and each run's settings by name.

    Raises:
      KeyError: settings without config or runs.
      ValueError: a method that is not in `eagc_jax.gcd.methods.METHODS`.

    Examples:
      >>> from eagc_jax.gcd.runs.results import describe_settings
      >>> runs = {"plain": RunSettings(METHODS["simgcd"]())}
      >>> found = read_runs(describe_settings(TrainConfig(seed=3), runs=runs))
      >>> found == (TrainConfig(seed=3), runs)
      True
    """
    runs = {name: _settings_of(entry) for name, entry in settings["runs"].items()}
    return _with_augmentation(TrainConfig, settings["config"]), runs


def _settings_of(entry: Mapping[str, Any]) -> RunSettings:
    method = dict(entry["method"])
    name = method.pop("name")
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    coordination = entry["coordination"]
    aggregator = entry["aggregator"]
    reference = entry["reference"]
    return RunSettings(
        METHODS[name](**method),
        Aggregation(**aggregator) if aggregator else None,
        FeatureCoordination(**coordination) if coordination else None,
        _with_augmentation(ReferenceConfig, reference) if reference else None,
    )


def _with_augmentation(kind: type, entry: Mapping[str, Any]) -> Any:
    return kind(**{**entry, "augmentation": Augmentation(**entry["augmentation"])})


def _plain(settings: Any) -> dict[str, Any] | None:
    if settings is None:
        return None
    # Not asdict alone: it copies a mapping as it is, whatever its type.
    plain = dataclasses.asdict(settings)
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}
