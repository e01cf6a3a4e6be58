"""What a training run leaves behind: plain containers that reports are made from."""

import dataclasses
from typing import Any, Literal

import numpy as np

from eagc_jax.gcd.evaluation.accuracy import Accuracy


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
    # per epoch what every step saw and decided: `eagc_jax.gcd.training.step.Trace` of
    # NumPy arrays with the steps in front, e.g. losses (S, K), gradient_norms (S, K, P)
    traces: list[Any] = dataclasses.field(default_factory=list)

    @property
    def gradient_deviation(self) -> list[float]:
        """GDC of each epoch: the mean over its measured steps, NaN without one."""
        return [_mean(trace.gradient_deviation) for trace in self.traces]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


@dataclasses.dataclass
class Snapshot:
    """The unlabeled training images and what each run made of them at the end.

    `features`, `predictions` and `accuracy` are keyed by run name. `accuracy` also
    has "k-means", the clustering of the features before any training.
    """

    title: str
    settings: dict[str, Any]  # configuration, versions, seed
    images: np.ndarray  # (N, H, W, C) float in [0, 1]
    labels: np.ndarray  # (N,) true classes, used for evaluation alone
    old_mask: np.ndarray  # (N,) bool, True where the class is known
    class_names: tuple[str, ...]  # index = class
    features: dict[str, np.ndarray]  # run name -> (N, D)
    predictions: dict[str, np.ndarray]  # run name -> (N,) cluster ids
    accuracy: dict[str, Accuracy]
    known_classes: tuple[int, ...]
