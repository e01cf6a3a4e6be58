"""Images, the split into known and novel categories, batches and augmentations."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from sklearn import datasets


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with their classes.

    Raises:
      ValueError: shapes disagree, values leave [0, 1], or a label has no name.
    """

    name: str
    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    labels: np.ndarray  # (N,) integers, index into class_names
    class_names: tuple[str, ...]

    def __post_init__(self):
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise ValueError(
                "images must have shape (N, H, W, C) and labels (N,), got "
                f"{self.images.shape} and {self.labels.shape}"
            )
        if self.images.min() < 0 or self.images.max() > 1:
            raise ValueError("images must lie in [0, 1]")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels must lie in [0, {len(self.class_names)})")


def load_digits() -> ImageDataset:
    """1797 handwritten digits of 8 x 8 gray pixels, shipped with scikit-learn.

    Examples:
      >>> load_digits().images.shape
      (1797, 8, 8, 1)

    References:
      Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    digits: Any = datasets.load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    return ImageDataset("digits", images, digits.target.astype(np.int32), names)


# A further data set is one more entry here.
LOADERS: dict[str, Callable[[], ImageDataset]] = {"digits": load_digits}


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
      >>> split = split_categories(load_digits(), range(5))
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


def sample_indices(
    key: jax.Array, labeled_mask: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Draws image numbers with replacement, about half of them labeled.

    A labeled image weighs 1, an unlabeled one |labeled| / |unlabeled|, as SimGCD's
    sampler has it. Without labeled images (or without unlabeled ones) the draw is
    uniform.

    Args:
      key: a JAX random key.
      labeled_mask: (N,) booleans.
      shape: of the result, e.g. (steps, batch).

    Returns:
      int32 indices in [0, N).

    Examples:
      >>> mask = jnp.arange(10) < 2
      >>> drawn = sample_indices(jax.random.key(0), mask, (1000,))
      >>> print(f"{jnp.mean(drawn < 2):.1f}")
      0.5
    """
    labeled = labeled_mask.sum()
    share = labeled / jnp.maximum(labeled_mask.size - labeled, 1)
    weights = jnp.where(labeled_mask, 1.0, jnp.where(labeled > 0, share, 1.0))
    # A draw of the cumulative weight; `minimum` because it may round up to the total.
    cumulative = jnp.cumsum(weights)
    drawn = jax.random.uniform(key, shape) * cumulative[-1]
    found = jnp.searchsorted(cumulative, drawn, side="right")
    return jnp.minimum(found, labeled_mask.size - 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a random view of an image may be from the image.

    The defaults suit digits: no flips, which would change what is written. Each amount
    is the largest one drawn, uniformly and to both sides. Hashable, so a `jit` may
    take it as a static argument.

    Raises:
      ValueError: an amount is negative, or zoom or contrast is not below 1.
    """

    rotation: float = 15.0  # degrees
    zoom: float = 0.2  # 0.2: between 0.8 and 1.2 times the size, each side its own
    shear: float = 0.2  # horizontal shift per row, in rows
    shift: float = 0.125  # of the image's side, each direction
    contrast: float = 0.2  # 0.2: brightness times 0.8 to 1.2, clipped to [0, 1]
    noise: float = 0.0  # standard deviation of Gaussian noise on each pixel

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative")
        for name in ("zoom", "contrast"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """One random view of each image: a small affine map, then contrast and noise.

    Args:
      key: a JAX random key.
      images: (B, H, W, C) floats in [0, 1].
      augmentation: the largest amounts.

    Returns:
      (B, H, W, C) floats in [0, 1].

    Examples:
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> augment(jax.random.key(0), images, Augmentation()).shape
      (2, 8, 8, 1)
    """
    affine_key, contrast_key, noise_key = jax.random.split(key, 3)
    batch, height, width, _ = images.shape
    maps = _random_maps(affine_key, batch, height, width, augmentation)
    views = jax.vmap(_resample)(images, maps)
    factor = 1 + augmentation.contrast * _symmetric(contrast_key, (batch, 1, 1, 1))
    noise = augmentation.noise * jax.random.normal(noise_key, views.shape)
    return jnp.clip(views * factor + noise, 0, 1)


def two_views(
    key: jax.Array, images: jax.Array, augmentation: Augmentation
) -> jax.Array:
    """Two independent views of B images: rows 0..B-1 view 1, rows B..2B-1 view 2."""
    return augment(key, jnp.concatenate([images, images]), augmentation)


def _random_maps(
    key: jax.Array, batch: int, height: int, width: int, amounts: Augmentation
) -> jax.Array:
    """(B, 2, 3) matrices: where in the image (y, x, 1) of the view is taken from."""
    drawn = _symmetric(key, (6, batch))
    angle = jnp.deg2rad(amounts.rotation) * drawn[0]
    zoom_y, zoom_x = 1 + amounts.zoom * drawn[1:3]
    shear = amounts.shear * drawn[3]
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros(batch)
    rotation = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    skew = jnp.stack([jnp.stack([zoom_y, zero]), jnp.stack([shear, zoom_x])])
    linear = jnp.einsum("ijb,jkb->bik", rotation, skew)
    shift = amounts.shift * drawn[4:6].T * jnp.array([height, width])
    return jnp.concatenate([linear, shift[..., None]], axis=2)


def _resample(image: jax.Array, affine: jax.Array) -> jax.Array:
    """Bilinear values of one (H, W, C) image; zero outside of it."""
    height, width, _ = image.shape
    centre = (jnp.array([height, width]) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    offsets = grid.reshape(2, -1) - centre[:, None]
    source = affine[:, :2] @ offsets + affine[:, 2:] + centre[:, None]

    def one_channel(channel):
        return map_coordinates(channel, list(source), order=1, mode="constant")

    values = jax.vmap(one_channel, in_axes=2, out_axes=1)(image)
    return values.reshape(image.shape)


def _symmetric(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
