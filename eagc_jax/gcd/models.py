"""The model that trains a backbone's last blocks, and a method's heads."""

from typing import Any

import jax
from flax import nnx

from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig

__all__ = ["ComputeDtype", "DiscoveryModel", "ViTConfig", "VisionTransformer"]


class DiscoveryModel(nnx.Module):
    """A backbone of which only the last blocks train, and a method's heads.

    Args:
      backbone: a (pretrained) network whose last blocks may train.
      head: the heads on its feature.
      trainable_blocks: how many of the last blocks train; the rest, the embeddings and
        the final norm are the frozen prefix and readout.

    Raises:
      ValueError: `trainable_blocks` is not in [0, depth].
    """

    def __init__(
        self,
        backbone: Any,  # a Backbone that is an nnx.Module
        head: nnx.Module,
        *,
        trainable_blocks: int = 1,
    ):
        depth = backbone.depth
        if not 0 <= trainable_blocks <= depth:
            raise ValueError(
                f"trainable_blocks must be in [0, {depth}], got {trainable_blocks}"
            )
        self.backbone = backbone
        self.head = head
        self.frozen_blocks = depth - trainable_blocks

    def tokens(self, images: Any) -> Any:
        """The frozen prefix: constant during training, so compute it once."""
        return jax.lax.stop_gradient(self.backbone.prefix(images, self.frozen_blocks))

    def features(self, tokens: Any) -> jax.Array:
        """Tokens of the frozen prefix to (B, width) features."""
        return self.backbone.readout(tokens, self.frozen_blocks)

    def __call__(self, tokens: Any) -> tuple[jax.Array, jax.Array]:
        """Tokens of the frozen prefix to projections and logits."""
        return self.head(self.features(tokens))

    def is_trainable(self, path: tuple, value: object) -> bool:
        """A filter for `nnx.split`: the last blocks' and the heads' parameters."""
        if not isinstance(value, nnx.Param):
            return False
        if path[0] == "backbone":
            return path[1] == "blocks" and path[2] >= self.frozen_blocks
        return path[0] == "head"
