"""Backbones on disk: one npz file with the shape and every parameter by name."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from eagc_jax import _files
from eagc_jax.gcd.backbones import vit_files, weights
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.vit import VisionTransformer

# Of our own making: `python -m eagc_jax.gcd.training.pretraining` writes it anew.
DIGITS_BACKBONE = pathlib.Path(__file__).parents[1] / "weights" / "digits_vit.npz"

_CONFIG_KEY = "config"


def save_backbone(
    path: str | os.PathLike[str], backbone: VisionTransformer, *, half: bool = False
) -> None:
    """Writes a backbone; the file appears whole or not at all.

    Args:
      path: of the npz file. Its folder is made if missing.
      backbone: any Vision Transformer. Its `compute_dtype` isn't written.
      half: round the parameters to float16, for half the size. A relative error of up to
        5e-4 (numbers below 6e-5 are kept to within 3e-8), small beside what bfloat16
        does to products.

    Raises:
      ValueError: with `half`, a parameter is out of float16's range (65504).
    """
    path = pathlib.Path(path)
    arrays = {
        name: np.asarray(value) for name, value in weights.parameters(backbone).items()
    }
    if half:
        arrays = {name: _halved(name, value) for name, value in arrays.items()}
    shape = dataclasses.asdict(backbone.config)
    del shape["compute_dtype"]  # how it is computed, not what was learned
    arrays[_CONFIG_KEY] = np.array(json.dumps(shape))
    _files.write_with(
        path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
    )


def load_backbone(
    path: str | os.PathLike[str] = DIGITS_BACKBONE,
    *,
    compute_dtype: ComputeDtype = "float32",
) -> VisionTransformer:
    """Reads what `save_backbone` wrote.

    Args:
      path: of the npz file; by default the backbone for digits that comes along.
      compute_dtype: what it shall compute in, see `ViTConfig`; files hold parameters.

    Returns:
      The backbone, with float32 parameters, however they were stored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no backbone, or names or shapes do not fit its config;
        the message lists every one of them.

    Examples:
      >>> load_backbone().config.image_size
      8
    """
    tensors = weights.read_tensors(path)
    if _CONFIG_KEY not in tensors:
        raise ValueError(f"{path} holds no backbone: its entry 'config' is missing")
    return vit_files.from_own(
        tensors,
        source=pathlib.Path(path),
        compute_dtype=compute_dtype,
        image_size=None,
        checkpoint=False,
    )


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    largest = np.max(np.abs(value))
    if not largest <= np.finfo(np.float16).max:  # NaN too
        raise ValueError(
            f"{name} has an entry of size {largest}, which float16 can't hold: save it "
            "with half=False"
        )
    return value.astype(np.float16)
