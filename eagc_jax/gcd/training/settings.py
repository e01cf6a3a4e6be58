"""How a run is optimised, and what is done at the feature: plain, hashable settings."""

import dataclasses

from eagc_jax.gcd.methods.base import check
from eagc_jax.gcd.training.augmentation import Augmentation

COORDINATION_MODES = ("released", "paper", "unsupervised_only")


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
    trainable_blocks: int = 1  # last blocks that train along with the heads
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    log_every: int = 10  # steps between two measurements of the raw gradients; 0: never
    evaluate_every: int = 1  # epochs between two evaluations; the last one has one
    seed: int = 0  # of heads, batches and views; not of the split

    def __post_init__(self):
        for name in ("epochs", "batch_size", "evaluate_every"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("learning_rate", "final_learning_rate", "head_rate"):
            check(name, getattr(self, name), "positive", getattr(self, name) > 0)
        for name in ("weight_decay", "log_every"):
            check(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        check("momentum", self.momentum, "in [0, 1)", 0 <= self.momentum < 1)


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
    mode: str = "released"  # "paper", "unsupervised_only"
    aperture: float = 2.0  # of the conceptor
    max_projection: float | None = 1.0  # cap of the projection weight; None: released
    normalize: bool = False  # conceptor of features of length 1
    center: bool = False  # conceptor of features less their mean over labeled images
    refresh_epochs: int = 0  # epochs between two conceptors of the student; 0: never
    decay_epochs: int = 0  # strengths fall linearly to 0 over so many; 0: constant

    def __post_init__(self):
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
