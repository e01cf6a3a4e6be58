"""A Vision Transformer's weights from files, and its options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from benchmarks import golden_backbones as reference
from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones import checkpoints, dino, huggingface, positions, weights
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from tests.gcd import golden

CASE = reference.CASES["registers_smaller"]
SMALL = dataclasses.replace(reference.CASES["dinov2_smaller"], width=64)


def parameters(network):
    return {name: np.asarray(x) for name, x in weights.parameters(network).items()}


def assert_same(found, expected):
    found, expected = parameters(found), parameters(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def load(tensors, **options):
    return dino.from_tensors(tensors, source="FILE", **options)


def test_the_config_follows_from_the_shapes():
    network = load(reference.tensors(CASE), compute_dtype="bfloat16")
    assert network.config == ViTConfig(
        image_size=70,  # what the positions are for, as it is below 224
        patch_size=14,
        width=128,
        depth=2,
        heads=2,
        registers=4,
        layer_scale=True,
        compute_dtype="bfloat16",
    )
    assert (network.kind, network.width, network.depth) == ("image", 128, 2)
    assert "bicubic to 80, centre 70" in network.preparation


def test_a_large_checkpoint_is_used_at_the_usual_size():
    case = dataclasses.replace(SMALL, grid=37, depth=1)
    assert load(reference.tensors(case)).config.image_size == 224


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.backbone.{name}",
        lambda name: f"backbone.{name}",
        lambda name: name.replace("blocks.", "blocks.0."),
    ],
)
def test_prefixes_chunks_and_heads_make_no_difference(rename):
    tensors = reference.tensors(SMALL)
    renamed = {rename(name): value for name, value in tensors.items()}
    renamed["module.head.mlp.0.weight"] = renamed["dino_head.last"] = np.zeros(3)
    assert_same(load(renamed), load(tensors))


def huggingface_tensors(tensors):
    names = {ours: theirs for theirs, ours in huggingface._IN_BLOCK.items()}
    names |= {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1"}
    places = {ours: theirs for theirs, ours in huggingface._PLACES.items()}
    found = {}
    for name, value in tensors.items():
        stem, _, part = name.rpartition(".")
        if name in places:
            found[f"dinov2.{places[name]}"] = value
        elif stem in places:
            found[f"dinov2.{places[stem]}.{part}"] = value
        elif stem.endswith("attn.qkv"):
            block = f"dinov2.encoder.layer.{stem.split('.')[1]}.attention.attention"
            three = np.split(value, 3)
            for one, rows in zip(("query", "key", "value"), three, strict=True):
                found[f"{block}.{one}.{part}"] = rows
        else:
            _, index, rest = name.split(".", 2)
            if rest not in names:
                rest, part = rest.rsplit(".", 1)
                theirs = f"{names[rest]}.{part}"
            else:
                theirs = names[rest]
            found[f"dinov2.encoder.layer.{index}.{theirs}"] = value
    return found


def test_names_of_transformers(tmp_path):
    tensors = reference.tensors(SMALL)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(huggingface_tensors(tensors), path)
    assert_same(backbones.load("vit", path), load(tensors))


def test_all_that_is_wrong_is_said_at_once():
    tensors = reference.tensors(SMALL)
    del tensors["cls_token"], tensors["blocks.1.mlp.fc2.bias"]
    tensors["blocks.0.attn.qkv.weight"] = np.zeros((192, 63), np.float32)
    tensors["surplus"] = np.zeros(1)
    with pytest.raises(ValueError, match="weights in FILE do not fit") as raised:
        load(tensors)
    for part in (
        "missing blocks.1.mlp.fc2.bias",
        "missing cls_token",
        "unknown surplus",
        "blocks.0.attn.qkv.weight of shape (192, 63) makes no "
        "blocks.0.attn.qkv.kernel of shape (64, 192)",
    ):
        assert part in str(raised.value)


def test_other_networks_are_refused():
    with pytest.raises(
        ValueError, match=r"FILE holds no Vision.*missing.*layer1\.conv"
    ):
        load({"layer1.conv": np.zeros(1)})
    tensors = reference.tensors(SMALL)
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size"):
        load(tensors, image_size=50)
    gated = {"blocks.0.mlp.w12.weight": np.zeros(1)}
    with pytest.raises(ValueError, match="a gated MLP, as in ViT-g, is not supported"):
        load(gated)
    tensors["patch_embed.proj.weight"] = np.zeros((64, 3, 14, 7), np.float32)
    with pytest.raises(ValueError, match="must have shape"):
        load(tensors)


def test_a_vit_needs_a_file(tmp_path):
    with pytest.raises(ValueError, match="a vit needs its weights"):
        backbones.load("vit")
    with pytest.raises(FileNotFoundError, match=r"no file of weights at .*absent\.pth"):
        backbones.load("vit", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"must be a file that ends in \.pth"):
        backbones.load("vit", tmp_path / "weights.bin")
    for name in ("a.safetensors", "a.npz"):
        (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0neither")
        with pytest.raises(ValueError, match="is not a readable"):
            backbones.load("vit", tmp_path / name)
    with pytest.raises(ValueError, match="holds no Vision Transformer"):
        backbones.load("vit", golden.GOLDEN / "checkpoint.pth")


def test_our_own_file_is_read_like_any_other():
    own = backbones.load("vit", checkpoints.DIGITS_BACKBONE)
    expected = checkpoints.load_backbone()
    assert_same(own, expected)
    assert own.config == expected.config
    assert own.fingerprint() == expected.fingerprint()
    larger = backbones.load("vit", checkpoints.DIGITS_BACKBONE, image_size=12)
    assert larger.prepare(np.zeros((8, 8, 1), np.uint8)).shape == (12, 12, 1)
    assert larger.fingerprint() != own.fingerprint()


@pytest.fixture(scope="module")
def network():
    return load(reference.tensors(SMALL), image_size=28)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(reference.pictures(2, 28))


def gradients(network, images):
    graph, state = nnx.split(network)

    def loss(state, images):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(images)))

    return jax.jit(jax.value_and_grad(loss))(state, images)


def test_blocks_computed_again_have_the_same_gradients(network, images):
    again = load(reference.tensors(SMALL), image_size=28, checkpoint=True)
    graph, state = nnx.split(again)
    jaxpr = jax.make_jaxpr(
        jax.grad(lambda state: jnp.sum(nnx.merge(graph, state)(images)))
    )(state)
    assert "remat" in str(jaxpr)
    for found, expected in zip(
        jax.tree.leaves(gradients(again, images)),
        jax.tree.leaves(gradients(network, images)),
        strict=True,
    ):
        scale = np.max(np.abs(expected)) + 1e-30
        # The same sums, but compiled together with others: some units of 6e-8.
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_the_fingerprint_is_of_weights_and_dtype(network):
    tensors = reference.tensors(SMALL)
    same = load(tensors, image_size=28)
    assert same.fingerprint() == network.fingerprint()
    other = load(tensors, image_size=28, compute_dtype="bfloat16")
    assert other.fingerprint() != network.fingerprint()
    tensors["norm.bias"] = tensors["norm.bias"] + np.float32(1e-6)
    assert load(tensors, image_size=28).fingerprint() != network.fingerprint()


def test_sizes_and_switches():
    assert ViTConfig.of_size("Ti", patch_size=8).heads == 3
    with pytest.raises(ValueError, match="size must be one of Ti, S, B, L"):
        ViTConfig.of_size("XL")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="registers must be at least 0"):
        ViTConfig(registers=-1)
    config = ViTConfig(8, 4, 1, 8, 2, 2, qkv_bias=False, registers=1, layer_scale=True)

    def shapes(images):
        model = VisionTransformer(config, rngs=nnx.Rngs(0))
        return model.prefix(images, 1), model(images), weights.parameters(model)

    tokens, found, names = jax.eval_shape(shapes, jnp.zeros((3, 8, 8, 1)))
    assert tokens.shape == (3, 1 + 1 + 4, 8)
    assert found.shape == (3, 8)
    assert "blocks.0.attn.qkv.bias" not in names
    assert names["blocks.1.ls2.gamma"].shape == (8,)


def dense_cubic(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize("variant", [positions.PLAIN, positions.SMOOTH])
def test_positions_against_loops(variant):
    random = np.random.default_rng(0)
    source, target = 6, 4
    table = random.normal(size=(1, 1 + source**2, 3)).astype(np.float32)
    scale = source / (target + variant.offset)
    weight = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * scale - 0.5
        if variant.antialias:
            for j in range(source):
                weight[i, j] = dense_cubic((j - centre) / scale, -0.5)
            weight[i] /= weight[i].sum()
            continue
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            at = min(max(tap, 0), source - 1)
            weight[i, at] += dense_cubic(tap - centre, -0.75)
    patches = table[0, 1:].reshape(source, source, 3)
    expected = np.einsum("ip,jq,pqd->ijd", weight, weight, patches).reshape(-1, 3)
    found = positions.interpolate(table, target, variant)
    np.testing.assert_allclose(found[0, 1:], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0, 0], table[0, 0])
    assert positions.interpolate(table, source, variant) is table
    with pytest.raises(ValueError, match="must have shape"):
        positions.interpolate(table[:, :-1], 3, variant)
