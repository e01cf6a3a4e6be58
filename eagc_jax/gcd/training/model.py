"""The model that is trained: a backbone's last part, or an adapter, and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from eagc_jax.gcd.layers import gelu, linear
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone

_WIDEST = 384  # units of an adapter, unless it is said


class ResidualAdapter(nnx.Module):
    """Features plus what two layers make of them: nothing, before training.

    `z + W2 gelu(W1 norm(z))` with a layer norm in front and W2 zero at first, so that
    training starts from the backbone's own features.

    Args:
      width: of the features.
      hidden: units between the layers; None for `width`, at most 384, to save time.
      rngs: stream `params` initialises the first layer.

    Examples:
      >>> def adapted(features):
      ...     return ResidualAdapter(4, rngs=nnx.Rngs(0))(features)
      >>> bool((adapted(jnp.ones((2, 4))) == 1).all())
      True

    References:
      Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019.
    """

    def __init__(self, width: int, hidden: int | None = None, *, rngs: nnx.Rngs):
        hidden = hidden or min(width, _WIDEST)
        self.norm: nnx.LayerNorm = nnx.LayerNorm(width, rngs=rngs)
        self.inner: nnx.Linear = linear(width, hidden, rngs)
        self.outer: nnx.Linear = nnx.Linear(
            hidden, width, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """(B, width) to the same shape."""
        return features + self.outer(gelu(self.inner(self.norm(features))))


class GivenFeatures(nnx.Module):
    """In a backbone's place where the features are at hand: they pass as they are."""

    depth = 0

    def __init__(self, width: int):
        self.width = width

    def prefix(self, arrays: jax.Array, num_blocks: int) -> jax.Array:
        """(B, width) to the same."""
        del num_blocks
        return jnp.asarray(arrays, jnp.float32)

    def readout(self, cached: jax.Array, num_blocks: int) -> jax.Array:
        """(B, width) to the same."""
        del num_blocks
        return cached


class DiscoveryModel(nnx.Module):
    """A backbone of which only the last blocks train, or an adapter, and heads.

    Args:
      backbone: (pretrained); see `eagc_jax.gcd.backbones.Backbone`.
      head: a method's heads on its feature.
      trainable_blocks: how many of the last blocks train; the rest, the embeddings and
        the final norm are the frozen prefix and readout.
      adapter: on the feature, below the heads; or None.

    Raises:
      ValueError: `trainable_blocks` is not in [0, depth].
    """

    def __init__(
        self,
        backbone: Backbone | GivenFeatures,
        head: nnx.Module,
        *,
        trainable_blocks: int = 1,
        adapter: ResidualAdapter | None = None,
    ):
        depth = backbone.depth
        if not 0 <= trainable_blocks <= depth:
            raise ValueError(
                f"trainable_blocks must be in [0, {depth}], got {trainable_blocks}"
            )
        self.backbone = backbone
        self.head = head
        self.adapter = adapter
        self.frozen_blocks: int = depth - trainable_blocks

    def tokens(self, arrays: PyTree) -> PyTree:
        """The frozen prefix: constant during training, so compute it once."""
        return jax.lax.stop_gradient(self.backbone.prefix(arrays, self.frozen_blocks))

    def features(self, tokens: PyTree) -> jax.Array:
        """Tokens of the frozen prefix to (B, width) features."""
        found = self.backbone.readout(tokens, self.frozen_blocks)
        return found if self.adapter is None else self.adapter(found)

    def __call__(self, tokens: PyTree) -> PyTree:
        """Tokens of the frozen prefix to what the heads make of them."""
        return self.head(self.features(tokens))

    def is_trainable(self, path: tuple[Any, ...], value: object) -> bool:
        """A filter for `nnx.split`: the last blocks', adapter's and heads' parameters."""
        if not isinstance(value, nnx.Param):
            return False
        if path[0] == "backbone":
            return path[1] == "blocks" and path[2] >= self.frozen_blocks
        return path[0] in ("head", "adapter")
