"""A user's own function as a backbone, and embeddings that are features already."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.registry import register
from eagc_jax.gcd.sources.records import Item, Kind


class CallableBackbone:
    """Items to features by a function; nothing of it trains."""

    depth = 0
    identity = False  # whether the items are the features
    preparation = "none"

    def __init__(
        self,
        function: Callable[[Sequence[Item]], ArrayLike],
        kind: Kind,
        width: int,
        version: str | None = None,
    ):
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.function = function
        self.kind: Kind = kind
        self.width = width
        # Code can't be compared: what nobody named is never the same again.
        self.version: str = version or uuid.uuid4().hex

    def fingerprint(self) -> str:
        """Of the version that the user named."""
        return f"callable-{self.kind}-{self.width}-{self.version}"

    def prepare(self, item: Item) -> Item:
        """The item itself."""
        return item

    def collate(self, prepared: Sequence[Item]) -> np.ndarray:
        """An (N,) array of objects."""
        items = np.empty(len(prepared), object)
        for index, item in enumerate(prepared):
            items[index] = item
        return items

    def prefix(self, arrays: np.ndarray, num_blocks: int = 0) -> jax.Array:
        """The function's answer, checked; not for use inside of `jax.jit`."""
        features = np.asarray(self.function(list(arrays)), np.float32)
        if features.shape != (len(arrays), self.width):
            raise ValueError(
                f"the function must return shape ({len(arrays)}, {self.width}) for "
                f"{len(arrays)} items, got {features.shape}"
            )
        return jnp.asarray(features)

    def readout(self, cached: jax.Array, num_blocks: int = 0) -> jax.Array:
        """What the prefix returned."""
        return cached


class Embeddings:
    """Embeddings that are features already: they pass as they are."""

    kind: Kind = "embedding"
    depth = 0
    identity = True
    preparation = "none"

    def __init__(self, width: int):
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width

    def fingerprint(self) -> str:
        """The same for all of one width."""
        return f"embeddings-{self.width}"

    def prepare(self, item: np.ndarray) -> np.ndarray:
        """(width,) float32; raises ValueError for another shape."""
        item = np.asarray(item, np.float32)
        if item.shape != (self.width,):
            raise ValueError(
                f"an embedding must have shape ({self.width},), got {item.shape}"
            )
        return item

    def collate(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """To (N, width)."""
        return np.stack(prepared)

    def prefix(self, arrays: ArrayLike, num_blocks: int = 0) -> jax.Array:
        """The embeddings."""
        return jnp.asarray(arrays)

    def readout(self, cached: jax.Array, num_blocks: int = 0) -> jax.Array:
        """The embeddings."""
        return cached


def callable_backbone(
    function: Callable[[Sequence[Item]], ArrayLike],
    kind: Kind,
    width: int,
    *,
    version: str | None = None,
) -> CallableBackbone:
    """Any function from items to features as a backbone.

    Args:
      function: from a list of N items to (N, width) numbers. An image is an (H, W, C)
        array, a text a `str`, an embedding a (D,) array.
      kind: of the items.
      width: of the feature.
      version: a name for the function with its weights, to be changed whenever the
        features do: the cache goes by it. Without one nothing is found again in a later
        run.

    Returns:
      The backbone, of depth 0.

    Raises:
      ValueError: the width is below 1; later, the function returns another shape.

    Examples:
      >>> lengths = callable_backbone(
      ...     lambda texts: [[len(text)] for text in texts], "text", 1, version="1"
      ... )
      >>> lengths.readout(lengths.prefix(lengths.collate(["four", "three"]))).tolist()
      [[4.0], [5.0]]
    """
    return CallableBackbone(function, kind, width, version)


def embeddings(width: int) -> Embeddings:
    """Embeddings given, that are features already.

    Args:
      width: of each.

    Returns:
      The backbone, of depth 0.

    Raises:
      ValueError: the width is below 1.

    Examples:
      >>> embeddings(2).prepare([1.0, 2.0]).dtype
      dtype('float32')
    """
    return Embeddings(width)


@register("embeddings")
def _load(
    weights: pathlib.Path | None,
    *,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    checkpoint: bool,
) -> Embeddings:
    raise ValueError(
        "embeddings have no weights to load: use backbones.embeddings(width), with the "
        "width of the data"
    )
