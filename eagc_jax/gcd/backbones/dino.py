"""Published weights of DINO and DINOv2 to a Vision Transformer.

The config follows from the shapes: nobody has to say which model a file holds.
"""

from __future__ import annotations

import re

import numpy as np
from flax import nnx

from eagc_jax.gcd.backbones import huggingface, positions, weights
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImagePreparation,
)
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.backbones.weights import Rule, Tensors

_HEAD_WIDTH = 64  # of all published models
_USUAL_SIZE = 224  # pixels, at which features are compared in the literature
_NAME_PREFIXES = re.compile(r"^(module\.|backbone\.|teacher\.)+")
# Of training alone: heads of self-supervision, a classifier, masked patches.
_OTHERS = re.compile(r"(head|dino_head|ibot_head|fc)\.|mask_token$")
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")


def from_tensors(
    tensors: Tensors,
    *,
    source: object,
    compute_dtype: ComputeDtype = "float32",
    image_size: int | None = None,
    heads: int | None = None,
    checkpoint: bool = False,
) -> VisionTransformer:
    """A Vision Transformer with the weights of a published checkpoint.

    Patch, width, depth, registers and layer scale follow from the shapes of the
    tensors, which are named as in the official repositories or as in `transformers`,
    with or without the prefixes `module.` and `backbone.`. Positions are interpolated
    to the image size as the official code does it, which differs for models with
    registers. Pictures are normalised with ImageNet's mean and deviation.

    Args:
      tensors: of the checkpoint.
      source: its file, for messages.
      compute_dtype: of products, see `ViTConfig`.
      image_size: pixels, a multiple of the patch; by default 224 (or the nearest
        multiple below), or the checkpoint's own if that is less.
      heads: of attention; by default one for each 64 features, as published.
      checkpoint: whether blocks are computed again in the backward pass.

    Returns:
      The network.

    Raises:
      ValueError: these are no such weights, or an image size that doesn't fit; of
        names and shapes the message lists every one that is wrong.
    """
    tensors = _official(tensors)
    config, native = _config(tensors, source, compute_dtype, image_size, heads)
    variant = positions.SMOOTH if config.registers else positions.PLAIN
    grid = config.image_size // config.patch_size
    if grid != native:
        moved = positions.interpolate(tensors["pos_embed"], grid, variant)
        tensors = {**tensors, "pos_embed": moved}
    preparation = ImagePreparation(
        config.image_size,
        resize_to=config.image_size * 256 // 224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    network = nnx.eval_shape(
        lambda: VisionTransformer(
            config,
            preparation=preparation,
            checkpoint=checkpoint,
            rngs=nnx.Rngs(0),
        )
    )
    weights.fill(network, tensors, _rules(config), source=source)
    return network


def _official(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names without prefixes and chunks, and without what only training needs."""
    plain = {_NAME_PREFIXES.sub("", name): value for name, value in tensors.items()}
    plain = huggingface.official_names(plain)
    named = {_CHUNKED.sub(r"blocks.\1.", name): value for name, value in plain.items()}
    return {name: value for name, value in named.items() if not _OTHERS.match(name)}


def _config(
    tensors: Tensors,
    source: object,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    heads: int | None,
) -> tuple[ViTConfig, int]:
    """What the shapes say, and the patches a side that the positions are for."""
    kernel, places = _shapes(tensors, source)
    width, channels, patch, _ = kernel
    native = int(np.sqrt(places[1] - 1))
    blocks = {
        int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)
    }
    hidden = tensors.get("blocks.0.mlp.fc1.bias", np.zeros(4 * width))
    registers = tensors.get("register_tokens")
    config = ViTConfig(
        image_size=image_size or _usual_size(native, patch),
        patch_size=patch,
        channels=channels,
        width=width,
        depth=len(blocks),
        heads=heads or max(1, width // _HEAD_WIDTH),
        mlp_ratio=max(1, hidden.size // width),
        registers=0 if registers is None else registers.shape[1],
        layer_scale="blocks.0.ls1.gamma" in tensors,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        compute_dtype=compute_dtype,
    )
    return config, native


def _usual_size(native: int, patch: int) -> int:
    return min(native, _USUAL_SIZE // patch) * patch


def _shapes(
    tensors: Tensors, source: object
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the patches' kernel and of the positions, which decide the rest."""
    names = ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight")
    absent = [name for name in names if name not in tensors]
    if absent:
        hint = (
            " (a gated MLP, as in ViT-g, is not supported)"
            if any(".mlp.w12." in name for name in tensors)
            else ""
        )
        raise ValueError(
            f"{source} holds no Vision Transformer as DINO and DINOv2 are published: "
            f"missing {', '.join(absent)}; it has {_some(tensors)}{hint}"
        )
    kernel, places = tensors[names[0]].shape, tensors[names[1]].shape
    if len(kernel) != 4 or kernel[2] != kernel[3] or len(places) != 3:
        raise ValueError(
            f"{source}: {names[0]} must have shape (width, channels, patch, patch) and "
            f"{names[1]} (1, patches + 1, width); got {kernel} and {places}"
        )
    return kernel, places


def _some(tensors: Tensors) -> str:
    names = list(tensors)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def _rules(config: ViTConfig) -> list[Rule]:
    """Where each parameter comes from."""
    rules = [
        Rule("cls_token", ("cls_token",)),
        Rule("pos_embed", ("pos_embed",)),
        Rule("patch_embed.proj.kernel", ("patch_embed.proj.weight",), _patch_kernel),
        Rule("patch_embed.proj.bias", ("patch_embed.proj.bias",)),
        *_norm("norm"),
    ]
    if config.registers:
        rules.append(Rule("register_tokens", ("register_tokens",)))
    for index in range(config.depth):
        rules += _block(f"blocks.{index}", config)
    return rules


def _block(block: str, config: ViTConfig) -> list[Rule]:
    rules = [*_norm(f"{block}.norm1"), *_norm(f"{block}.norm2")]
    for name in ("attn.proj", "mlp.fc1", "mlp.fc2", "attn.qkv"):
        layer = f"{block}.{name}"
        rules.append(Rule(f"{layer}.kernel", (f"{layer}.weight",), np.transpose))
        if config.qkv_bias or name != "attn.qkv":
            rules.append(Rule(f"{layer}.bias", (f"{layer}.bias",)))
    if config.layer_scale:
        for name in (f"{block}.ls1.gamma", f"{block}.ls2.gamma"):
            rules.append(Rule(name, (name,)))
    return rules


def _norm(name: str) -> list[Rule]:
    return [
        Rule(f"{name}.scale", (f"{name}.weight",)),
        Rule(f"{name}.bias", (f"{name}.bias",)),
    ]


def _patch_kernel(kernel: np.ndarray) -> np.ndarray:
    """(width, channels, p, p) to (p * p * channels, width), as patches are flattened."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])
