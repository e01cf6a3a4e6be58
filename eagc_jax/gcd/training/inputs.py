"""What a step is given of the items it drew: read on the host, a few steps at a time.

Nothing of the size of the data set lies on a device. `read` gathers what some steps need
while the device works on the steps before; `view`, a static part of the compiled step,
makes the two views' tokens of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gcd.sources import ArrayItems, ChosenItems, Records, read
from eagc_jax.gcd.training.augmentation import Augmentation, two_views
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.views import ViewPool, draw_numbers
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone
    from eagc_jax.gcd.sources.loader import Reader

_Array = TypeVar("_Array", np.ndarray, jax.Array)


class View(Protocol):
    """Makes the two views' tokens of what was read; hashable, a part of the program."""

    def __call__(
        self, key: jax.Array, arrays: PyTree, model: DiscoveryModel, /
    ) -> PyTree:
        """A step's arrays to tokens (2B, ...)."""
        ...


class Inputs(Protocol):
    """Items for training; see `ImageInputs`, `PooledInputs`, `FeatureInputs`."""

    @property
    def view(self) -> View:
        """From a step's arrays to tokens."""
        ...

    @property
    def rows_axis(self) -> int:
        """Which axis of a step's arrays are its B rows."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def read(self, rows: np.ndarray, keys: jax.Array, columns: np.ndarray) -> PyTree:
        """Arrays for (S, B) rows and (S,) keys, of those columns alone, S in front."""
        ...

    def bytes_of_rows(self, number: int) -> int:
        """About how many bytes `read` returns for so many rows."""
        ...

    def blocks(self, size: int) -> Iterator[PyTree]:
        """All items in order, as the backbone's prefix takes them, `size` at a time."""
        ...


# ---------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RandomViews:
    """Two random views of each image, through the frozen prefix."""

    augmentation: Augmentation

    def __call__(
        self, key: jax.Array, images: jax.Array, model: DiscoveryModel
    ) -> PyTree:
        """(B, H, W, C) images to tokens of 2B views."""
        return model.tokens(two_views(key, in_unit_range(images), self.augmentation))


class ImageInputs:
    """Images of one size: an array in memory or memory-mapped.

    Args:
      images: (N, H, W, C), float32 in [0, 1] or uint8.
      augmentation: of the views.
    """

    rows_axis = 0

    def __init__(self, images: np.ndarray, augmentation: Augmentation):
        self._images = images
        self.view: RandomViews = RandomViews(augmentation)

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    def read(
        self, rows: np.ndarray, keys: jax.Array, columns: np.ndarray
    ) -> np.ndarray:
        """(S, B, H, W, C)."""
        del keys
        return self._images[rows[:, columns]]

    def bytes_of_rows(self, number: int) -> int:
        """Of images as they are stored."""
        return number * self._images[:1].nbytes

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Slices of the array."""
        for start in range(0, len(self), size):
            yield in_unit_range(self._images[start : start + size])


class LoadedInputs:
    """Images that are read, decoded and prepared when their turn comes, in threads.

    Args:
      records: of images, of any sizes.
      backbone: prepares and collates them.
      augmentation: of the views.
    """

    rows_axis = 0

    def __init__(
        self, records: Records, backbone: Backbone, augmentation: Augmentation
    ):
        self._records, self._backbone = records, backbone
        self.view: RandomViews = RandomViews(augmentation)
        self._bytes = np.asarray(backbone.prepare(records.items[0])).nbytes

    def __len__(self) -> int:
        """N."""
        return len(self._records)

    def read(
        self, rows: np.ndarray, keys: jax.Array, columns: np.ndarray
    ) -> np.ndarray:
        """(S, B, H, W, C)."""
        del keys
        wanted = rows[:, columns]
        _, images = next(self._reader(wanted.ravel(), wanted.size))
        return images.reshape(*wanted.shape, *images.shape[1:])

    def bytes_of_rows(self, number: int) -> int:
        """Of prepared images."""
        return number * self._bytes

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All of them, decoded anew."""
        for _, images in self._reader(np.arange(len(self)), size):
            yield in_unit_range(images)

    def _reader(self, rows: np.ndarray, size: int) -> Reader[np.ndarray]:
        prepare, collate = self._backbone.prepare, self._backbone.collate
        return read(self._records, rows, prepare, batch_size=size, collate=collate)


def images_of(records: Records) -> np.ndarray:
    """The items as one array (N, H, W, C); ValueError where they are none."""
    items = records.items
    if isinstance(items, ChosenItems) and isinstance(items.items, ArrayItems):
        images = items.items.array[items.rows]
    else:
        images = getattr(items, "array", None)
    if images is None or np.ndim(images) != 4:
        raise ValueError(
            f"{records.name} must hold images as one array (N, H, W, C) in memory"
        )
    return images


def has_images_in_memory(records: Records) -> bool:
    """Whether `images_of` has an answer."""
    items = records.items
    if isinstance(items, ChosenItems):
        items = items.items
    return isinstance(items, ArrayItems) and np.ndim(items.array) == 4


def in_unit_range(images: _Array) -> _Array:
    """Floats as they are; bytes as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    return images


# ---------------------------------------------------------------------------
# Views that were drawn before
# ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GivenViews:
    """Both views as they were read, with noise of a share of their length."""

    noise: float = 0.0

    def __call__(self, key: jax.Array, both: PyTree, model: DiscoveryModel) -> PyTree:
        """Leaves (2, B, ...) to tokens (2B, ...)."""
        del model
        tokens = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), both)
        if self.noise == 0:
            return tokens
        return _with_noise(key, tokens, self.noise)


def _with_noise(key: jax.Array, features: jax.Array, noise: float) -> jax.Array:
    """Unit rows again, after Gaussian noise of expected length `noise`."""
    scale = noise / features.shape[1] ** 0.5
    moved = features + scale * jax.random.normal(key, features.shape, features.dtype)
    return moved / jnp.linalg.norm(moved, axis=1, keepdims=True)


class PooledInputs:
    """Two of each item's views in a pool, drawn anew each time.

    Args:
      pool: tokens (N, V, ...) behind the frozen prefix; or features (N, V, D) of views.
      items: of which all are evaluated, as they are.
      unit: whether rows are scaled to length 1, as `FeatureInputs` has them.
    """

    rows_axis = 1

    def __init__(
        self,
        pool: ViewPool,
        items: ImageInputs | FeatureInputs,
        *,
        unit: bool = False,
    ):
        self._tokens, self._items, self._unit = pool.tokens, items, unit
        self.view: GivenViews = GivenViews()

    def __len__(self) -> int:
        """N."""
        return len(self._tokens)

    def read(
        self, rows: np.ndarray, keys: jax.Array, columns: np.ndarray
    ) -> np.ndarray:
        """(S, 2, B, ...)."""
        drawn = draw_numbers(keys, rows.shape[1], self._tokens.shape[1])
        numbers = np.asarray(drawn)[:, :, columns]
        found = self._tokens[rows[:, None, columns], numbers]
        return unit_rows(found) if self._unit else found

    def bytes_of_rows(self, number: int) -> int:
        """Of two views."""
        return 2 * number * self._tokens[:1, 0].nbytes

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Of the items themselves, not of their views."""
        return self._items.blocks(size)


class Neighbours(NamedTuple):
    """Which items may stand in for an unlabeled item's second view."""

    table: np.ndarray  # (N, k) int32, each item's nearest others
    unlabeled: np.ndarray  # (N,) bool


class FeatureInputs:
    """Features that were computed before; views are noise on them.

    Args:
      features: (N, D) floats, in memory or memory-mapped. Rows are scaled to length 1.
      noise: expected length of what is added to a view.
      neighbours: the second view of an unlabeled item is then one of its neighbours or
        itself, all equally likely, drawn anew each time; None for itself.

    References:
      Van Gansbeke et al., "SCAN: Learning to Classify Images without Labels", ECCV 2020,
      for neighbours in feature space as positives.
    """

    rows_axis = 1

    def __init__(
        self,
        features: np.ndarray,
        *,
        noise: float = 0.0,
        neighbours: Neighbours | None = None,
    ):
        self._features, self._neighbours = features, neighbours
        self.view: GivenViews = GivenViews(noise)

    def __len__(self) -> int:
        """N."""
        return len(self._features)

    def read(
        self, rows: np.ndarray, keys: jax.Array, columns: np.ndarray
    ) -> np.ndarray:
        """(S, 2, B, D)."""
        second = rows
        if self._neighbours is not None:
            table, unlabeled = self._neighbours
            drawn = _draw_neighbours(keys, rows.shape[1], table.shape[1] + 1)
            near = np.concatenate([table[rows], rows[..., None]], axis=2)
            near = np.take_along_axis(near, np.asarray(drawn)[..., None], axis=2)[
                ..., 0
            ]
            second = np.where(unlabeled[rows], near, rows)
        both = np.stack([rows, second], axis=1)[:, :, columns]
        return unit_rows(self._features[both])

    def bytes_of_rows(self, number: int) -> int:
        """Of two float32 features."""
        return 8 * number * self._features.shape[1]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Slices, scaled to length 1."""
        for start in range(0, len(self), size):
            yield unit_rows(self._features[start : start + size])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_neighbours(keys, number, choices):
    def of_step(key):
        # Not the key of the noise.
        return jax.random.randint(jax.random.fold_in(key, 1), (number,), 0, choices)

    return jax.vmap(of_step)(keys)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Float32 rows of length 1; a zero row stays zero."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
