"""Floating-point operations of a SimGCD step, from shapes; and what a card can do.

Counted are matrix products, ``2 m k n`` each, of the backbone and the heads: forward
once, and backward twice as many for what trains (for its inputs and for its weights).
The losses' products, norms, softmax and the optimizer are left out.
"""

from __future__ import annotations

from eagc_jax.gcd.backbones.vit import ViTConfig

# Dense products with float32 sums, in TFLOP/s: of bfloat16, and of float32 numbers
# rounded to TF32, which is what XLA makes of float32 products by default. From NVIDIA's
# data sheets, where "with sparsity" is halved.
_PEAKS = {
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0),
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA L4": (121.0, 60.5),
    "NVIDIA L40S": (362.0, 183.0),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
}


def peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of a card, by the name JAX gives it; None for one that isn't listed."""
    if device_kind not in _PEAKS:
        return None
    return 1e12 * _PEAKS[device_kind][0 if dtype == "bfloat16" else 1]


def simgcd_step(
    config: ViTConfig,
    images: int,
    *,
    trained_blocks: int,
    hidden: int,
    projection: int,
    classes: int,
) -> int:
    """FLOPs of one step with one backward pass.

    Args:
      config: of the backbone.
      images: that go through it: two views of each of a batch.
      trained_blocks: the last ones; the rest only runs forward.
      hidden: units of the projector's two hidden layers.
      projection: its outputs.
      classes: of the classifier.

    Returns:
      Their number.
    """
    blocks = [block(config)] * (config.depth - 1) + [last_block(config)]
    frozen = config.depth - trained_blocks
    width = config.width
    heads = 2 * (width * hidden + hidden * hidden + hidden * projection)
    heads += 2 * width * classes
    once = embedding(config) + sum(blocks[:frozen])
    return images * (once + 3 * (sum(blocks[frozen:]) + heads))


def embedding(config: ViTConfig) -> int:
    """Of an image's patches."""
    inputs = config.patch_size**2 * config.channels
    return 2 * config.num_patches * inputs * config.width


def block(config: ViTConfig) -> int:
    """Of a block, forward, an image: kernels, then scores and their use."""
    tokens, width = config.num_patches + 1, config.width
    kernels = (4 + 2 * config.mlp_ratio) * width**2
    return 2 * tokens * (kernels + 2 * tokens * width)


def last_block(config: ViTConfig) -> int:
    """The same where only the class token is wanted: keys and values of all tokens."""
    tokens, width = config.num_patches + 1, config.width
    of_all = 2 * tokens * width**2
    of_one = (2 + 2 * config.mlp_ratio) * width**2 + 2 * tokens * width
    return 2 * (of_all + of_one)
