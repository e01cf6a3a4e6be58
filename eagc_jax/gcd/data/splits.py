"""The split of a data set into known and novel categories."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from eagc_jax.gcd.data.datasets import ImageDataset


@dataclasses.dataclass(frozen=True)
class DiscoverySplit:
    """A data set of which some classes are known and some of their images labeled.

    Classes are renumbered: known classes first, in the order given, then novel ones.
    """

    name: str
    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    labels: np.ndarray  # (N,) int32 true classes; off limits where unlabeled
    labeled_mask: np.ndarray  # (N,) bool: the label may be used in training
    class_names: tuple[str, ...]  # known classes, then novel ones
    num_known: int

    @property
    def num_classes(self) -> int:
        """Known plus novel classes."""
        return len(self.class_names)

    @property
    def known_classes(self) -> tuple[int, ...]:
        """Numbers of the known classes."""
        return tuple(range(self.num_known))

    @property
    def old_mask(self) -> np.ndarray:
        """(N,) bool, True where the image's class is known."""
        return self.labels < self.num_known

    @property
    def training_labels(self) -> np.ndarray:
        """(N,) int32 labels that training may see: -1 on unlabeled images."""
        return np.where(self.labeled_mask, self.labels, -1).astype(np.int32)


def split_categories(
    dataset: ImageDataset,
    known_classes: Sequence[int],
    *,
    labeled_share: float = 0.5,
    seed: int = 0,
) -> DiscoverySplit:
    """Declares some classes known and labels a share of their images.

    The labeled images are one draw without replacement from all images of known
    classes, not per class. The draw depends on `seed` alone and has nothing to do with
    the seed of a run, so that all runs solve the same problem.

    Args:
      dataset: the images.
      known_classes: class numbers; the others are novel.
      labeled_share: of the known classes' images, in (0, 1).
      seed: of the draw.

    Returns:
      The split; unlabeled images are the rest of the known classes and all novel ones.

    Raises:
      ValueError: a class is unknown to the data set or named twice, none is left to
        discover, or the share is not in (0, 1).

    Examples:
      >>> from eagc_jax.gcd import data
      >>> split = split_categories(data.load_digits(), range(5))
      >>> int(split.labeled_mask.sum()), int((~split.labeled_mask).sum())
      (450, 1347)

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022, section 4.
    """
    known = [int(c) for c in known_classes]
    every = range(len(dataset.class_names))
    if len(set(known)) != len(known) or not set(known) < set(every) or not known:
        raise ValueError(
            f"known_classes must be some, but not all, of 0..{len(every) - 1}, each "
            f"once; got {known}"
        )
    if not 0 < labeled_share < 1:
        raise ValueError(f"labeled_share must be in (0, 1), got {labeled_share}")
    order = known + [c for c in every if c not in known]
    labels = np.argsort(order)[dataset.labels].astype(np.int32)
    candidates = np.flatnonzero(labels < len(known))
    chosen = np.random.default_rng(seed).choice(
        candidates, int(labeled_share * len(candidates)), replace=False
    )
    labeled_mask = np.zeros(len(labels), bool)
    labeled_mask[chosen] = True
    names = tuple(dataset.class_names[c] for c in order)
    return DiscoverySplit(
        dataset.name, dataset.images, labels, labeled_mask, names, len(known)
    )
