"""How a run is optimised, and what is done at the feature: plain, hashable settings."""

import dataclasses
from typing import Literal, get_args

from eagc_jax.gcd.methods.base import check
from eagc_jax.gcd.training.augmentation import Augmentation

#: What is done to the gradients at the feature; see `eagc_jax.features.coordinate`.
CoordinationMode = Literal["released", "paper", "unsupervised_only"]
COORDINATION_MODES = get_args(CoordinationMode)

# What is trained below the heads: the backbone's last blocks, an adapter on its features
# (which can then be computed once), or nothing.
Trains = Literal["blocks", "adapter", "nothing"]


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """A residual adapter on features that were computed before, and their views.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    # Units between its two layers; None: the feature's width, at most 384.
    hidden: int | None = None
    rate: float = 0.1  # its learning rate over the one of training
    noise: float = 0.6  # expected length of the noise on a view; features have length 1
    # Views are the features of so many random views of an image, drawn and embedded once,
    # instead of noise; 0: noise.
    augmented_views: int = 0
    # The second view of an unlabeled item is one of so many nearest items by the frozen
    # feature, or itself, drawn anew each time; 0: itself.
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.hidden is not None:
            check("hidden", self.hidden, "at least 1 or None", self.hidden >= 1)
        check("rate", self.rate, "positive", self.rate > 0)
        for name in ("noise", "neighbours", "augmented_views"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        both = self.neighbours and self.augmented_views
        check("neighbours", self.neighbours, "0 with augmented_views", not both)


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Training before the method's own objectives, and where prototypes start.

    First the labeled items alone are classified (and, where the method has it, views told
    apart); then semi-supervised k-means on the features so trained gives the prototypes,
    also of classes that no item is labeled with.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    epochs: int = 10  # along a cosine of their own; 0: none
    prototypes: bool = True  # from semi-supervised k-means
    restarts: int = 3  # of k-means

    def __post_init__(self) -> None:
        check("epochs", self.epochs, "at least 0", self.epochs >= 0)
        check("restarts", self.restarts, "at least 1", self.restarts >= 1)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained to discover categories, whatever the method.

    The defaults are SimGCD's published settings. None was chosen by looking at the
    accuracy on novel classes.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    epochs: int = 40  # of as many images as the data set has, drawn with replacement
    batch_size: int = 128  # images per step, two views each
    learning_rate: float = 0.1  # SGD's first; falls along a cosine, step by step
    final_learning_rate: float = 1e-4  # at the last step
    head_rate: float = 1.0  # the heads' learning rate over the backbone's
    momentum: float = 0.9
    weight_decay: float = 5e-5  # of kernels alone, not of biases and norms
    trains: Trains = "blocks"  # besides the heads
    trainable_blocks: int = 1  # how many of the last, where blocks train
    adapter: AdapterConfig = AdapterConfig()  # where it trains
    warm_start: WarmStart | None = None
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    log_every: int = 10  # steps between two measurements of the raw gradients; 0: never
    evaluate_every: int = 1  # epochs between two evaluations; the last one has one
    seed: int = 0  # of heads, batches and views; not of the split

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("learning_rate", "final_learning_rate", "head_rate"):
            check(name, getattr(self, name), "positive", getattr(self, name) > 0)
        for name in ("weight_decay", "log_every"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        check("momentum", self.momentum, "in [0, 1)", 0 <= self.momentum < 1)
        if self.trains not in get_args(Trains):
            raise ValueError(
                f"trains must be one of {get_args(Trains)}, got {self.trains!r}"
            )

    @property
    def blocks_that_train(self) -> int:
        """Of the backbone's last ones."""
        return self.trainable_blocks if self.trains == "blocks" else 0


@dataclasses.dataclass(frozen=True)
class FeatureCoordination:
    """The published EAGC at the feature; the defaults are the released strengths.

    See `eagc_jax.features`: anchor alignment (AGA) pulls labeled rows to the reference
    model's features, elastic projection (EEP) takes from the gradient of unlabeled rows
    what lies in the subspace of the labeled features.

    Raises:
      ValueError: a value is out of its range; the message names the field.
    """

    aga_weight: float = 0.7
    eep_weight: float = 0.5
    mode: CoordinationMode = "released"
    aperture: float = 2.0  # of the conceptor
    max_projection: float | None = 1.0  # cap of the projection weight; None: released
    normalize: bool = False  # conceptor of features of length 1
    center: bool = False  # conceptor of features less their mean over labeled images
    refresh_epochs: int = 0  # epochs between two conceptors of the student; 0: never
    decay_epochs: int = 0  # strengths fall linearly to 0 over so many; 0: constant

    def __post_init__(self) -> None:
        for name in ("aga_weight", "eep_weight", "refresh_epochs", "decay_epochs"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        check("aperture", self.aperture, "positive", self.aperture > 0)
        if self.mode not in COORDINATION_MODES:
            raise ValueError(
                f"mode must be one of {COORDINATION_MODES}, got {self.mode!r}"
            )
        if self.max_projection is not None:
            cap = self.max_projection
            check("max_projection", cap, "in [0, 1] or None", 0 <= cap <= 1)


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """How the reference model is trained; the released settings where they apply.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    epochs: int = 30  # passes over the labeled images
    batch_size: int = 32  # labeled images per step, two views each
    learning_rate: float = 0.02  # SGD's first; falls along a cosine, step by step
    final_learning_rate: float = 2e-5
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of all parameters, as released
    temperature: float = 0.1  # of the cross-entropy
    trainable_blocks: int = 1
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("learning_rate", "final_learning_rate", "temperature"):
            check(name, getattr(self, name), "positive", getattr(self, name) > 0)
        check("momentum", self.momentum, "in [0, 1)", 0 <= self.momentum < 1)
        decay = self.weight_decay
        check("weight_decay", decay, "at least 0", decay >= 0)
