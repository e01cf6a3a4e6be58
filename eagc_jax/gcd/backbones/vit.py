"""A Vision Transformer in Flax NNX.

Module and parameter names follow the layout of the published DINO weights
(`patch_embed.proj`, `blocks.0.attn.qkv`, ...), with the patch projection as one linear
layer on flattened patches and every kernel as (inputs, outputs).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from eagc_jax.gcd.backbones import weights
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.images import ImagePreparation
from eagc_jax.gcd.layers import Linear, gelu, linear, norm, recomputed
from eagc_jax.gcd.sources.records import Kind

Size = Literal["Ti", "S", "B", "L"]

_SIZES: dict[Size, tuple[int, int, int]] = {  # width, depth, heads
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}


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
      registers: tokens between the class token and the patches that carry no position
        and are not read (DINOv2 has versions with 4).
      layer_scale: whether what a block adds is multiplied by a learned vector (DINOv2).
      qkv_bias: whether queries, keys and values have a bias.
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
    registers: int = 0
    layer_scale: bool = False
    qkv_bias: bool = True
    compute_dtype: ComputeDtype = "float32"

    def __post_init__(self) -> None:
        for name in (
            "image_size",
            "patch_size",
            "channels",
            "width",
            "depth",
            "heads",
            "mlp_ratio",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.registers < 0:
            raise ValueError(f"registers must be at least 0, got {self.registers}")
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

    @classmethod
    def of_size(cls, size: Size, **others: object) -> "ViTConfig":
        """One of the published sizes, Ti, S, B or L, with other fields as given.

        Examples:
          >>> ViTConfig.of_size("S", patch_size=14, registers=4).width
          384
        """
        if size not in _SIZES:
            raise ValueError(f"size must be one of {', '.join(_SIZES)}, got {size!r}")
        width, depth, heads = _SIZES[size]
        shape = cls(width=width, depth=depth, heads=heads)
        return dataclasses.replace(shape, **others)

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
        self.patch_size: int = config.patch_size
        self.proj: Linear = linear(inputs, config.width, rngs, config.layer_dtype)

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
        self.heads: int = config.heads
        width, dtype = config.width, config.layer_dtype
        self.qkv: Linear = linear(width, 3 * width, rngs, dtype, config.qkv_bias)
        self.proj: Linear = linear(width, width, rngs, dtype)

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
        query = tokens[:, 0] @ kernel[:, :width]
        flat = tokens.reshape(-1, width)
        both = flat @ kernel[:, width:]
        if self.qkv.bias is not None:
            bias = self.qkv.bias[...].astype(tokens.dtype)
            query, both = query + bias[:width], both + bias[width:]
        both = both.reshape(batch, length, 2, self.heads, -1)
        query = query.reshape(batch, 1, self.heads, -1)
        mixed = jax.nn.dot_product_attention(query, both[:, :, 0], both[:, :, 1])
        return self.proj(mixed.reshape(batch, 1, width))


class MLP(nnx.Module):
    """Two layers with the exact GELU between."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        hidden = config.mlp_ratio * config.width
        self.fc1: Linear = linear(config.width, hidden, rngs, config.layer_dtype)
        self.fc2: Linear = linear(hidden, config.width, rngs, config.layer_dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape."""
        return self.fc2(gelu(self.fc1(tokens)))


class LayerScale(nnx.Module):
    """A learned factor for each feature."""

    def __init__(self, config: ViTConfig):
        self.gamma: nnx.Param[jax.Array] = nnx.Param(jnp.ones(config.width))
        self.dtype: jnp.dtype | None = config.layer_dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape and dtype."""
        return tokens * self.gamma[...].astype(self.dtype or tokens.dtype)


def _same(tokens: jax.Array) -> jax.Array:
    return tokens


_Scaling = Callable[[jax.Array], jax.Array]


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and beside a shortcut."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm1: nnx.LayerNorm = norm(config.width, rngs, config.layer_dtype)
        self.attn: Attention = Attention(config, rngs=rngs)
        self.norm2: nnx.LayerNorm = norm(config.width, rngs, config.layer_dtype)
        self.mlp: MLP = MLP(config, rngs=rngs)
        self.ls1: _Scaling = LayerScale(config) if config.layer_scale else _same
        self.ls2: _Scaling = LayerScale(config) if config.layer_scale else _same

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, T, width) to the same shape."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))

    def first(self, tokens: jax.Array) -> jax.Array:
        """The first of the tokens that the block would return, as (B, 1, width).

        Only keys and values need the other tokens. Of a block's multiplications in
        their kernels, 12 per token and squared width, 2 are left.
        """
        token = tokens[:, :1] + self.ls1(self.attn.first(self.norm1(tokens)))
        return token + self.ls2(self.mlp(self.norm2(token)))


class VisionTransformer(nnx.Module):
    """Images to one feature each: the class token after the final norm.

    The forward pass is `readout(prefix(images, n), n)` for any n: when all but the
    last blocks are frozen, the prefix runs once per batch and is not differentiated.

    Args:
      config: the shape.
      preparation: how pictures become its input; by default of the config's size and
        not normalised.
      checkpoint: whether a block's backward pass computes the block again instead of
        keeping what its forward pass made: memory against a third more time.
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

    kind: Kind = "image"

    def __init__(
        self,
        config: ViTConfig,
        *,
        preparation: ImagePreparation | None = None,
        checkpoint: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.images: ImagePreparation = preparation or ImagePreparation(
            config.image_size, config.channels
        )
        self.checkpoint = checkpoint
        shape = (1, 1 + config.num_patches, config.width)
        self.patch_embed: PatchEmbedding = PatchEmbedding(config, rngs=rngs)
        self.cls_token: nnx.Param[jax.Array] = nnx.Param(
            0.2 * jax.random.normal(rngs.params(), (1, 1, config.width))
        )
        self.pos_embed: nnx.Param[jax.Array] = nnx.Param(
            0.2 * jax.random.normal(rngs.params(), shape)
        )
        self.register_tokens: nnx.Param[jax.Array] | None = (
            _registers(config, rngs) if config.registers else None
        )
        self.blocks: nnx.List[Block] = nnx.List(
            [Block(config, rngs=rngs) for _ in range(config.depth)]
        )
        self.norm: nnx.LayerNorm = norm(
            config.width, rngs
        )  # features are float32 or wider

    @property
    def width(self) -> int:
        """Of the feature."""
        return self.config.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.config.depth

    @property
    def preparation(self) -> str:
        """How pictures become its input."""
        return self.images.describe()

    def fingerprint(self) -> str:
        """Of architecture, weights and compute dtype."""
        return f"vit-{weights.fingerprint(self, self.config, self.images)}"

    def prepare(self, item: np.ndarray) -> np.ndarray:
        """A picture of any size to (size, size, channels)."""
        return self.images.prepare(item)

    def collate(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """To one array."""
        return self.images.collate(prepared)

    def __call__(self, images: ArrayLike) -> jax.Array:
        """(B, H, W, C) images to (B, width) features."""
        return self.readout(self.prefix(images, 0), 0)

    def prefix(self, arrays: ArrayLike, num_blocks: int) -> jax.Array:
        """Images to the tokens after the first blocks.

        They are (B, 1 + registers + patches, width); images are bytes, or in [0, 1].
        """
        images = jnp.asarray(arrays)
        self.images.check(images)
        patches = self.patch_embed(self.images.normalize(images))
        first = jnp.broadcast_to(self.cls_token[...], (len(images), 1, self.width))
        # Promoted to float32 where patches are narrower; the sum is rounded once.
        tokens = jnp.concatenate([first, patches], axis=1) + self.pos_embed[...]
        tokens = self._with_registers(tokens)
        tokens = tokens.astype(self.config.layer_dtype or tokens.dtype)
        for block in self.blocks[:num_blocks]:
            tokens = self._run(block, tokens)
        return tokens

    def readout(self, cached: jax.Array, num_blocks: int) -> jax.Array:
        """Tokens after the first `num_blocks` blocks to (B, width) features.

        The feature is the class token's, so the last block computes no other.
        """
        tokens = cached
        last = len(self.blocks) - 1
        for block in self.blocks[num_blocks:last]:
            tokens = self._run(block, tokens)
        if num_blocks <= last:
            tokens = self.blocks[last].first(tokens)
        return self.norm(tokens[:, 0])

    def _run(self, block: Block, tokens: jax.Array) -> jax.Array:
        return recomputed(block, tokens) if self.checkpoint else block(tokens)

    def _with_registers(self, tokens: jax.Array) -> jax.Array:
        if self.register_tokens is None:
            return tokens
        shape = (len(tokens), self.config.registers, self.width)
        registers = jnp.broadcast_to(self.register_tokens[...], shape)
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)


def _registers(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Param[jax.Array]:
    shape = (1, config.registers, config.width)
    return nnx.Param(0.2 * jax.random.normal(rngs.params(), shape))
