"""What a training run leaves behind: plain containers that reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.evaluation.accuracy import Accuracy

if TYPE_CHECKING:
    from eagc_jax.gcd.training.measures import Measured, Trace


@dataclasses.dataclass
class RunHistory:
    """One run's figures, one entry per finished epoch in every list.

    K is the number of objectives, L the number of layers (parameter tensors) that the
    coordinator saw. `decided` and `energy` stay empty for an aggregator without them.
    """

    name: str  # of the run, as tables and legends print it: "sum", "EAGC"
    epochs: list[int] = dataclasses.field(default_factory=list)  # 1, 2, ...
    accuracy: list[Accuracy] = dataclasses.field(default_factory=list)
    # "supervised", "unsupervised" -> mean loss over the epoch's steps
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    layers: list[str] = dataclasses.field(default_factory=list)  # L names
    # What was decided each step, if anything: `eagc_jax.diagnostics.Decision.kind`.
    decision: Literal["gate", "weight", "projection"] | None = None
    # per epoch (K, L): the factor each objective's gradient was multiplied by (gate,
    # weight), or the share of the conflicting part that was taken out (projection)
    decided: list[np.ndarray] = dataclasses.field(default_factory=list)
    # per epoch (K, L): how much each objective wanted to move each layer
    energy: list[np.ndarray] = dataclasses.field(default_factory=list)
    objective_names: tuple[str, ...] = ("supervised", "unsupervised")
    # K loss weights: the gate of plain summation, so that gate / weight = 1 is neutral.
    # Empty for ones.
    objective_weights: tuple[float, ...] = ()
    seconds: list[float] = dataclasses.field(default_factory=list)  # wall clock
    # of a training step, without evaluation; the first epoch's holds the compilation
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    # SOC: share of novel images' variance in the labeled images' main directions
    subspace_overlap: list[float] = dataclasses.field(default_factory=list)
    parameters: list[str] = dataclasses.field(default_factory=list)  # P tensors
    # per epoch what every step saw and decided:
    # NumPy arrays with the steps in front, e.g. losses (S, K), gradient_norms (S, K, P)
    traces: list[Trace] = dataclasses.field(default_factory=list)

    @property
    def gradient_deviation(self) -> list[float]:
        """GDC of each epoch: the mean over its measured steps, NaN without one."""
        return [_mean(trace.gradient_deviation) for trace in self.traces]

    def to_plain(self) -> JsonObject:
        """What curves are drawn of, for JSON: no traces, and null for NaN."""
        left_out = ("traces", "accuracy")
        found = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in left_out
        }
        return found | {"accuracy": [_plain(list(one)) for one in self.accuracy]}

    @classmethod
    def from_plain(cls, values: JsonObject) -> RunHistory:
        """From what `to_plain` made.

        Raises:
          ValueError: it is something else.

        Examples:
          >>> history = RunHistory("sum", epochs=[1], losses={"supervised": [0.5]})
          >>> RunHistory.from_plain(history.to_plain()) == history
          True
        """
        try:
            given = dict(values)
            for name in ("decided", "energy"):
                given[name] = [np.array(x, np.float32) for x in given[name]]
            for name in ("objective_names", "objective_weights"):
                given[name] = tuple(given[name])
            given["accuracy"] = [Accuracy(*map(_number, x)) for x in given["accuracy"]]
            given["subspace_overlap"] = [_number(x) for x in given["subspace_overlap"]]
            return cls(**given)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"this is no history of a run: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Measured) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


@dataclasses.dataclass
class Snapshot:
    """The unlabeled training images and what each run made of them at the end.

    `features`, `predictions` and `accuracy` are keyed by run name. `accuracy` also
    has "k-means", the clustering of the features before any training.
    """

    title: str
    settings: JsonObject  # configuration, versions, seed
    images: np.ndarray  # (N, H, W, C) float in [0, 1]
    labels: np.ndarray  # (N,) true classes, used for evaluation alone
    old_mask: np.ndarray  # (N,) bool, True where the class is known
    class_names: tuple[str, ...]  # index = class
    features: dict[str, np.ndarray]  # run name -> (N, D)
    predictions: dict[str, np.ndarray]  # run name -> (N,) cluster ids
    accuracy: dict[str, Accuracy]
    known_classes: tuple[int, ...]
