"""A Vision Transformer, and the model that trains its last blocks, in Flax NNX.

Module and parameter names follow the layout of the published DINO weights
(`patch_embed.proj`, `blocks.0.attn.qkv`, ...), with the patch projection as one linear
layer on flattened patches and every kernel as (inputs, outputs).
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from eagc_jax.gcd.layers import gelu, linear, norm

ComputeDtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer; the default is ViT-B/16 at 224 pixels.

    Args:
      image_size: height and width of the input, pixels; a multiple of `patch_size`.
      patch_size: height and width of a patch, pixels.
      channels: of the input image.
      width: features per token; a multiple of `heads`.
      depth: number of blocks.
      heads: attention heads per block.
      mlp_ratio: hidden units of a block's MLP per feature.
      compute_dtype: of the tokens and of the matrix products. With "bfloat16" the
        parameters, and so the gradients, stay float32; so do the sums inside of layer
        norms and softmax, and the features that leave the backbone, and with them
        everything after it: heads and losses. It needs about half the time and memory
        on accelerators; most CPUs gain nothing.

    Raises:
      ValueError: a size is below 1 or does not divide as said above, or a dtype that
        isn't one of the two.

    Examples:
      >>> ViTConfig().num_patches
      196
      >>> ViTConfig(image_size=8, patch_size=2, channels=1, width=64, heads=4).depth
      12
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    compute_dtype: ComputeDtype = "float32"

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if name != "compute_dtype" and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for whole, part in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} must be a multiple of {part}, got "
                    f"{getattr(self, whole)} and {getattr(self, part)}"
                )
        if self.compute_dtype not in get_args(ComputeDtype):
            raise ValueError(
                f"compute_dtype must be one of {', '.join(get_args(ComputeDtype))}, "
                f"got {self.compute_dtype!r}"
            )

    @property
    def num_patches(self) -> int:
        """Patches per image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def layer_dtype(self) -> jnp.dtype | None:
        """What layers compute in; None, for float32, lets float64 inputs stay so."""
        return None if self.compute_dtype == "float32" else jnp.dtype(jnp.bfloat16)


class PatchEmbedding(nnx.Module):
    """Cuts an image into patches, row by row, and projects each of them."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        inputs = config.patch_size**2 * config.channels
        self.patch_size = config.patch_size
        self.proj = linear(inputs, config.width, rngs, config.layer_dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, patches, width)."""
        batch, height, width, channels = images.shape
        size = self.patch_size
        patches = images.reshape(
            batch, height // size, size, width // size, size, channels
        )
        patches = patches.transpose(0, 1, 3, 2, 4, 5)
        return self.proj(patches.reshape(batch, -1, size * size * channels))


class Attention(nnx.Module):
    """Multi-head self-attention; one kernel holds queries, keys and values."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        width, dtype = config.width, config.layer_dtype
        self.qkv = linear(width, 3 * width, rngs, dtype)
        self.proj = linear(width, width, rngs, dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape."""
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        mixed = jax.nn.dot_product_attention(query, key, value)
        return self.proj(mixed.reshape(batch, length, width))

    def first(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to (B, 1, width): what the first token gets, and that alone."""
        batch, length, width = tokens.shape
        kernel = self.qkv.kernel[...].astype(tokens.dtype)
        bias = self.qkv.bias[...].astype(tokens.dtype)  # type: ignore[index]  (it has one)
        query = tokens[:, 0] @ kernel[:, :width] + bias[:width]
        flat = tokens.reshape(-1, width)
        both = flat @ kernel[:, width:] + bias[width:]
        both = both.reshape(batch, length, 2, self.heads, -1)
        query = query.reshape(batch, 1, self.heads, -1)
        mixed = jax.nn.dot_product_attention(query, both[:, :, 0], both[:, :, 1])
        return self.proj(mixed.reshape(batch, 1, width))


class MLP(nnx.Module):
    """Two layers with the exact GELU between."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        hidden = config.mlp_ratio * config.width
        self.fc1 = linear(config.width, hidden, rngs, config.layer_dtype)
        self.fc2 = linear(hidden, config.width, rngs, config.layer_dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape."""
        return self.fc2(gelu(self.fc1(tokens)))


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and beside a shortcut."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm1 = norm(config.width, rngs, config.layer_dtype)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = norm(config.width, rngs, config.layer_dtype)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def first(self, tokens: jax.Array) -> jax.Array:
        """The first of the tokens that the block would return, as (B, 1, width).

        Only keys and values need the other tokens. Of a block's multiplications in
        their kernels, 12 per token and squared width, 2 are left.
        """
        token = tokens[:, :1] + self.attn.first(self.norm1(tokens))
        return token + self.mlp(self.norm2(token))


class VisionTransformer(nnx.Module):
    """Images to one feature each: the class token after the final norm.

    The forward pass is `readout(prefix(images, n), n)` for any n: when all but the
    last blocks are frozen, the prefix runs once per batch and is not differentiated.

    Args:
      config: the shape.
      rngs: stream `params` initialises the weights.

    Examples:
      >>> config = ViTConfig(image_size=8, patch_size=2, channels=1, width=16, depth=2,
      ...                    heads=2)
      >>> def features(images):
      ...     return VisionTransformer(config, rngs=nnx.Rngs(0))(images)
      >>> nnx.eval_shape(features, jnp.zeros((3, 8, 8, 1))).shape
      (3, 16)

    References:
      Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Caron et al.,
      "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (layout).
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (1, 1 + config.num_patches, config.width)
        self.patch_embed = PatchEmbedding(config, rngs=rngs)
        self.cls_token = nnx.Param(
            0.2 * jax.random.normal(rngs.params(), (1, 1, config.width))
        )
        self.pos_embed = nnx.Param(0.2 * jax.random.normal(rngs.params(), shape))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = norm(config.width, rngs)  # features are float32 or wider

    def __call__(self, images: ArrayLike) -> jax.Array:
        """(B, H, W, C) images to (B, width) features."""
        return self.readout(self.prefix(images, 0), 0)

    def prefix(self, images: ArrayLike, num_blocks: int) -> jax.Array:
        """Images to the tokens (B, 1 + patches, width) after the first blocks."""
        images = jnp.asarray(images)
        size, channels = self.config.image_size, self.config.channels
        if images.ndim != 4 or images.shape[1:] != (size, size, channels):
            raise ValueError(
                f"images must have shape (B, {size}, {size}, {channels}), "
                f"got {images.shape}"
            )
        patches = self.patch_embed(images)
        first = jnp.broadcast_to(self.cls_token[...], (len(images), 1, self.width))
        # Promoted to float32 where patches are narrower; the sum is rounded once.
        tokens = jnp.concatenate([first, patches], axis=1) + self.pos_embed[...]
        tokens = tokens.astype(self.config.layer_dtype or tokens.dtype)
        for block in self.blocks[:num_blocks]:
            tokens = block(tokens)
        return tokens

    def readout(self, tokens: jax.Array, num_blocks: int) -> jax.Array:
        """Tokens after the first `num_blocks` blocks to (B, width) features.

        The feature is the class token's, so the last block computes no other.
        """
        last = len(self.blocks) - 1
        for block in self.blocks[num_blocks:last]:
            tokens = block(tokens)
        if num_blocks <= last:
            tokens = self.blocks[last].first(tokens)
        return self.norm(tokens[:, 0])

    @property
    def width(self) -> int:
        """Of the feature, and of a token."""
        return self.config.width

    @property
    def depth(self) -> int:
        """How many blocks."""
        return self.config.depth
