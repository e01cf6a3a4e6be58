"""The backbone `vit`: a Vision Transformer from a file of weights."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
from flax import nnx

from eagc_jax._files import JsonObject
from eagc_jax.gcd.backbones import dino, positions
from eagc_jax.gcd.backbones import weights as weights_files
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.registry import register
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.backbones.weights import Rule


@register("vit")
def load_vit(
    weights: pathlib.Path | None,
    *,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    checkpoint: bool,
) -> VisionTransformer:
    """A Vision Transformer: DINO's, DINOv2's, or one that was pretrained here.

    Raises:
      ValueError: there is no file given, or it doesn't fit.
      FileNotFoundError: there is no such file.
    """
    if weights is None:
        raise ValueError(
            "a vit needs its weights: --weights FILE or weights=FILE, a .pth or "
            ".safetensors of DINO or DINOv2, or the .npz of `eagc pretrain`"
        )
    tensors = weights_files.read_tensors(weights)
    made = from_own if "config" in tensors else dino.from_tensors
    return made(
        tensors,
        source=weights,
        compute_dtype=compute_dtype,
        image_size=image_size,
        checkpoint=checkpoint,
    )


def from_own(
    tensors: dict[str, np.ndarray],
    *,
    source: pathlib.Path,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    checkpoint: bool,
) -> VisionTransformer:
    """From the file that `save_backbone` writes: our names, and the config as JSON."""
    config = _stored_config(tensors.pop("config"), source, compute_dtype)
    if image_size not in (None, config.image_size):
        config = dataclasses.replace(config, image_size=image_size)
        grid = config.image_size // config.patch_size
        tensors["pos_embed"] = positions.interpolate(
            tensors["pos_embed"], grid, positions.PLAIN
        )
    network = nnx.eval_shape(
        lambda: VisionTransformer(config, checkpoint=checkpoint, rngs=nnx.Rngs(0))
    )
    rules = [Rule(name, (name,)) for name in weights_files.parameters(network)]
    weights_files.fill(network, tensors, rules, source=source)
    return network


def _stored_config(
    stored: np.ndarray, source: pathlib.Path, compute_dtype: ComputeDtype
) -> ViTConfig:
    # A safetensors file has numbers alone: there it is the text's bytes.
    text = stored.tobytes() if stored.dtype == np.uint8 else str(stored)
    try:
        fields: JsonObject = json.loads(text)
        return ViTConfig(**fields, compute_dtype=compute_dtype)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{source} has an unreadable config: {error}") from error
