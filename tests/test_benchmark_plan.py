"""benchmarks/plan.py counts what the models of this package have and compute."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import plan
from eagc_jax.gcd.backbones import vit as models


def abstract_vit(shape):
    config = models.ViTConfig(
        image_size=shape.image,
        patch_size=shape.patch,
        channels=3,
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        mlp_ratio=4,
    )
    return nnx.eval_shape(lambda: models.VisionTransformer(config, rngs=nnx.Rngs(0)))


def test_parameters_are_those_of_the_model():
    shape = plan.Vit(depth=3)
    leaves = jax.tree.leaves(nnx.state(abstract_vit(shape), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == shape.parameters


def test_flops_are_those_of_the_model():
    shape = plan.Vit(depth=3)
    graphdef, state = nnx.split(abstract_vit(shape))
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def forward(state, images):
        # Tokens of all blocks, the last included: its class token alone would be less.
        return nnx.merge(graphdef, state).prefix(images, shape.depth)

    found = jax.jit(forward).lower(state, images).cost_analysis()["flops"]
    # Beside the products: norms, softmax and GELU, some per cent of them.
    assert 1 < found / (2 * shape.forward_flops) < 1.05


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    target = tmp_path_factory.mktemp("plan") / "rows.json"
    plan.main(["--json", str(target)])
    return {(r["step"], r["placement"]): r for r in json.loads(target.read_text())}


def test_work_is_that_of_the_page_on_gradients(rows):
    for placement in ("DP", "FSDP"):
        one = rows["summed loss", placement]["tflops"]
        several = rows["value_and_grads", placement]["tflops"]
        stale = rows["stale_weights, 1 in 20", placement]["tflops"]
        np.testing.assert_allclose(several / one, (1 + 2 * 8) / 3)
        np.testing.assert_allclose(stale / one, (19 + (3 + 4 * 8) / 3) / 20)


def test_what_is_sent_and_kept(rows):
    n = plan.Vit().parameters
    sum_dp, all_dp = rows["summed loss", "DP"], rows["value_and_grads", "DP"]
    np.testing.assert_allclose(sum_dp["sent_gb"], 2 * 4 * n / 1e9)
    np.testing.assert_allclose(all_dp["sent_gb"], 8 * sum_dp["sent_gb"])
    np.testing.assert_allclose(all_dp["memory_gb"], 4 * n * (3 + 8) / 1e9)
    # Everything sharded: a 256th, and one block.
    all_fsdp = rows["value_and_grads", "FSDP"]
    block = 6 * plan.Vit().of_block / 1e9
    np.testing.assert_allclose(all_fsdp["memory_gb"], all_dp["memory_gb"] / 256 + block)
    coordination = rows["coordination", "FSDP"]
    assert coordination["collectives"] == "1 all-reduce of 256 B"
    np.testing.assert_allclose(
        rows["coordination", "DP"]["compute_ms"], 1e3 * 17 * 4 * n / 819e9
    )
