"""The ViT and the heads against NumPy, the published head, and the DINO layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from eagc_jax.gcd import heads
from eagc_jax.gcd.backbones import checkpoints, weights
from eagc_jax.gcd.backbones import vit as models
from eagc_jax.gcd.training.model import DiscoveryModel
from tests.gcd import golden

CONFIG = models.ViTConfig(
    image_size=8, patch_size=4, channels=2, width=12, depth=2, heads=3, mlp_ratio=2
)


@pytest.fixture(scope="module")
def vit():
    # Under jit, here and below: op by op, every first use of an op is a compilation.
    return nnx.jit(lambda: models.VisionTransformer(CONFIG, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((3, 8, 8, 2), np.float32)


jitted = nnx.jit(lambda module, *inputs: module(*inputs))


def numpy_gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def numpy_vit(p, images):
    """The forward pass in float64, one image and one head at a time."""

    def linear(name, x):
        return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * p[f"{name}.scale"] + p[f"{name}.bias"]

    def attention(name, x):
        qkv = linear(f"{name}.qkv", x)
        size = 12 // 3
        mixed = []
        for head in range(3):
            q, k, v = (
                qkv[:, part * 12 + head * size : part * 12 + (head + 1) * size]
                for part in range(3)
            )
            scores = np.exp(q @ k.T / np.sqrt(size))
            mixed.append(scores / scores.sum(1, keepdims=True) @ v)
        return linear(f"{name}.proj", np.concatenate(mixed, axis=1))

    features = []
    for image in np.asarray(images, np.float64):
        patches = [
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1)
            for row in range(2)
            for column in range(2)
        ]
        tokens = linear("patch_embed.proj", np.stack(patches))
        tokens = np.concatenate([p["cls_token"][0], tokens]) + p["pos_embed"][0]
        for i in range(2):
            block = f"blocks.{i}"
            tokens = tokens + attention(f"{block}.attn", norm(f"{block}.norm1", tokens))
            hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens))
            tokens = tokens + linear(f"{block}.mlp.fc2", numpy_gelu(hidden))
        features.append(norm("norm", tokens[0]))
    return np.stack(features)


def float64_parameters(vit):
    names = weights.parameters(vit)
    return {name: np.asarray(value, np.float64) for name, value in names.items()}


def test_vit_matches_numpy(vit, images):
    # Biases and norms start at 0 and 1, which would hide where they enter.
    random = np.random.default_rng(2)
    graphdef, state = nnx.split(vit)
    state = jax.tree.map(
        lambda x: np.float32(x + 0.2 * random.normal(size=x.shape)),
        jax.device_get(state),
    )
    moved = nnx.merge(graphdef, state)
    expected = numpy_vit(float64_parameters(moved), images)
    np.testing.assert_allclose(jitted(moved, images), expected, rtol=1e-4, atol=1e-5)


def test_vit_b16_has_the_published_layout():
    build = lambda: models.VisionTransformer(models.ViTConfig(), rngs=nnx.Rngs(0))  # noqa: E731
    parameters = weights.parameters(nnx.eval_shape(build))
    assert len(parameters) == 150
    assert sum(value.size for value in parameters.values()) == 85_798_656
    assert parameters["blocks.11.attn.qkv.kernel"].shape == (768, 2304)
    assert parameters["pos_embed"].shape == (1, 197, 768)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_prefix_and_readout_make_the_whole(vit, images, blocks):
    split = nnx.jit(lambda vit: vit.readout(vit.prefix(images, blocks), blocks))(vit)
    np.testing.assert_allclose(split, jitted(vit, images), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def narrow(vit):
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    model = nnx.eval_shape(lambda: models.VisionTransformer(config, rngs=nnx.Rngs(0)))
    nnx.update(model, nnx.state(vit))
    return model


def test_bfloat16_tokens_and_float32_parameters_gradients_and_features(
    vit, narrow, images
):
    assert jax.eval_shape(lambda: narrow.prefix(images, 1)).dtype == jnp.bfloat16
    expected, found = jitted(vit, images), jitted(narrow, images)
    assert found.dtype == jnp.float32
    # Features have a variance of 1. Each of about a dozen roundings on the way adds an
    # error of at most 2^-9 of a token's size: a few hundredths at the very worst.
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert np.any(np.abs(np.subtract(found, expected)) > 1e-4)  # it does round
    gradients = nnx.eval_shape(nnx.grad(lambda model: model(images).sum()), narrow)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == len(jax.tree.leaves(nnx.state(vit)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


def test_bfloat16_leaves_norms_and_softmax_in_float32(narrow, images):
    graphdef, state = nnx.split(narrow)
    jaxpr = jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(images))(state)
    found: dict[str, set] = {}
    for equation in equations(jaxpr.jaxpr):
        dtypes = found.setdefault(equation.primitive.name, set())
        dtypes |= {str(variable.aval.dtype) for variable in equation.invars}
    assert found["dot_general"] == {"bfloat16"}
    for name in ("exp", "rsqrt", "reduce_sum", "reduce_max", "div"):
        assert found[name] == {"float32"}, name


def equations(jaxpr):
    """Of a jaxpr and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def published_head(case):
    head = nnx.jit(
        lambda: heads.SimGCDHead(
            32, 10, hidden=64, projection=16, extra_layer=True, rngs=nnx.Rngs(0)
        )
    )()
    layers = [head.extra, *head.projector.layers]
    names = ["mlp.mlp.0", "head.mlp.0", "head.mlp.2", "head.mlp.4"]
    for layer, name in zip(layers, names, strict=True):
        layer.kernel[...] = jnp.asarray(case[f"param:{name}.weight"].T)
        layer.bias[...] = jnp.asarray(case[f"param:{name}.bias"])
    head.classifier.kernel[...] = jnp.asarray(case["param:head.last_layer.weight_v"].T)
    assert np.all(case["param:head.last_layer.weight_g"] == 1)
    return head


def test_head_matches_the_published_implementation():
    case = golden.load("simgcd_head_0")
    projections, logits = jitted(published_head(case), case["x"])
    for found, name in ((projections, "projection"), (logits, "logits")):
        np.testing.assert_allclose(
            found, case[name], rtol=1e-5, atol=1e-5 * np.abs(case[name]).max()
        )


def test_logits_are_cosines_whatever_the_lengths():
    classifier = nnx.jit(lambda: heads.CosineClassifier(6, 4, rngs=nnx.Rngs(0)))()
    features = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    logits = np.asarray(jitted(classifier, features))
    assert np.all(np.abs(logits) <= 1 + 1e-6)
    np.testing.assert_allclose(jitted(classifier, 100 * features), logits, rtol=1e-5)
    zero = jax.jit(jax.grad(lambda x: classifier(x).sum()))(np.zeros((1, 6)))
    assert np.all(np.isfinite(zero))


def discovery_model(vit, trainable_blocks):
    head = nnx.jit(
        lambda: heads.SimGCDHead(12, 4, hidden=8, projection=6, rngs=nnx.Rngs(1))
    )()
    return DiscoveryModel(vit, head, trainable_blocks=trainable_blocks)


def test_only_last_blocks_and_heads_train(vit):
    model = discovery_model(vit, 1)
    trainable, frozen = nnx.split(model, model.is_trainable, ...)[1:]
    trainable, frozen = (
        {".".join(map(str, path[:3])) for path, _ in nnx.to_flat_state(state)}
        for state in (trainable, frozen)
    )
    assert {name for name in trainable if name.startswith("backbone")} == {
        "backbone.blocks.1"
    }
    assert all(name.startswith("backbone") for name in frozen)
    assert "backbone.blocks.0" in frozen
    assert "backbone.norm.scale" in frozen


def test_no_gradient_reaches_the_frozen_prefix(vit, images):
    model = discovery_model(vit, 1)

    @nnx.jit
    def gradients(model):
        return nnx.grad(lambda m: m(m.tokens(images))[1].sum())(model)

    found = jax.device_get(gradients(model)["backbone"])
    assert all(np.all(x == 0) for x in jax.tree.leaves(found["blocks"][0]))
    assert all(np.all(x == 0) for x in jax.tree.leaves(found["patch_embed"]))
    assert any(np.any(x != 0) for x in jax.tree.leaves(found["blocks"][1]))


def test_checkpoint_round_trip(tmp_path, vit, images):
    path = tmp_path / "new" / "vit.npz"
    checkpoints.save_backbone(path, vit)
    loaded = checkpoints.load_backbone(path)
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(jitted(loaded, images), jitted(vit, images))
    assert [file.name for file in path.parent.iterdir()] == ["vit.npz"]


def test_a_checkpoint_holds_no_compute_dtype(tmp_path, vit, narrow):
    paths = tmp_path / "float32.npz", tmp_path / "bfloat16.npz"
    for path, model in zip(paths, (vit, narrow), strict=True):
        checkpoints.save_backbone(path, model)
    with np.load(paths[0]) as wide_file, np.load(paths[1]) as narrow_file:
        wide, found = dict(wide_file), dict(narrow_file)
    assert wide.keys() == found.keys()
    for name in wide:
        assert wide[name].dtype == found[name].dtype
        np.testing.assert_array_equal(wide[name], found[name])
    loaded = checkpoints.load_backbone(paths[0], compute_dtype="bfloat16")
    assert loaded.config == narrow.config
    assert checkpoints.load_backbone(paths[1]).config == CONFIG


def test_half_a_checkpoint(tmp_path, vit):
    path = tmp_path / "half.npz"
    checkpoints.save_backbone(path, vit, half=True)
    before = weights.parameters(vit)
    after = weights.parameters(checkpoints.load_backbone(path))
    for name, value in before.items():
        assert after[name].dtype == jnp.float32
        # Half a unit of the last of float16's 11 bits, or of its subnormal numbers.
        np.testing.assert_allclose(after[name], value, rtol=2**-11, atol=2**-25)
    with np.load(path) as file:
        assert file["cls_token"].dtype == np.float16
    graphdef, state = nnx.split(vit)
    state = jax.tree.map(lambda x: x + np.float32(1e5), jax.device_get(state))
    huge = nnx.merge(graphdef, state)
    with pytest.raises(ValueError, match=r"entry of size 1000.*half=False"):
        checkpoints.save_backbone(path, huge, half=True)


def test_checkpoint_errors_list_every_problem(tmp_path, vit):
    path = tmp_path / "vit.npz"
    checkpoints.save_backbone(path, vit)
    with np.load(path) as file:
        arrays = dict(file)
    arrays.pop("cls_token")
    arrays["norm.bias"] = np.zeros(3)
    arrays["surplus"] = np.zeros(3)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"missing cls_token; unknown surplus; norm"):
        checkpoints.load_backbone(path)
    np.savez(path, nothing=np.zeros(1))
    with pytest.raises(ValueError, match="holds no backbone"):
        checkpoints.load_backbone(path)
    path.write_bytes(b"neither npz nor npy")
    with pytest.raises(ValueError, match="not a readable npz"):
        checkpoints.load_backbone(path)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_backbone(tmp_path / "absent.npz")


def test_wrong_use_names_the_argument(vit):
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size"):
        models.ViTConfig(image_size=9, patch_size=2)
    with pytest.raises(ValueError, match="width must be a multiple of heads"):
        models.ViTConfig(width=10, heads=4)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        models.ViTConfig(depth=0)
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'float16'"):
        models.ViTConfig(compute_dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must have shape \(B, 8, 8, 2\)"):
        vit(jnp.zeros((3, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"trainable_blocks must be in \[0, 2\]"):
        discovery_model(vit, 3)
