"""What is measured: trees, models, batch; in full, and tiny to try the program out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.methods import SimGCD


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of every part."""

    tree: Any  # shapes of the parameters that are coordinated
    num_objectives: tuple[int, ...]
    copied_bytes: int  # for the bandwidth
    models: Mapping[str, ViTConfig]  # for the training step
    method: SimGCD
    classes: int
    batch: int  # images a step, two views each
    measure_seconds: float  # of calls, for each figure
    rounds: int  # of which the quickest counts
    threads: int  # programs compiled at a time


def parameter_shapes(config: ViTConfig) -> Any:
    """Shapes of a ViT's parameters, nested by name."""
    model = nnx.eval_shape(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(nnx.state(model)))


def full(cores: int) -> Sizes:
    """The tree of a ViT-B/16 (150 leaves, 86 million), and both models at 224 pixels."""
    return Sizes(
        tree=parameter_shapes(ViTConfig()),
        num_objectives=(2, 4, 8),
        copied_bytes=2**30,
        models={"ViT-S/16": ViTConfig(width=384, heads=6), "ViT-B/16": ViTConfig()},
        method=SimGCD(head_hidden=2048, head_projection=256),  # as published
        classes=200,  # as of CUB
        batch=128,
        measure_seconds=0.25,
        rounds=3,
        threads=max(1, min(cores, 16)),
    )


def tiny() -> Sizes:
    """For a CPU, in seconds: it says that the program runs, and nothing about speed."""
    model = ViTConfig(
        image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp_ratio=2
    )
    return Sizes(
        tree={"kernel": (16, 8), "bias": (8,)},
        num_objectives=(2,),
        copied_bytes=2**16,
        models={"tiny": model},
        method=SimGCD(head_hidden=8, head_projection=4),
        classes=4,
        batch=4,
        measure_seconds=0.002,
        rounds=1,
        threads=2,
    )
