"""SimGCD's whole step, the batch split over the chips, for each coordinator."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.tpu_aot.compiling import Program
from benchmarks.tpu_aot.trees import AXIS
from eagc_jax import aggregators, eagc, features
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.methods import Batch, SimGCD
from eagc_jax.gcd.training import step
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination

CLASSES, BATCH, SMALL_BATCH = 200, 128, 8  # as of CUB; images, two views each
PUBLISHED = SimGCD(head_hidden=2048, head_projection=256)
SMALL = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=4)
MODELS = {
    "vit_s16": ViTConfig(width=384, heads=6),
    "vit_b16": ViTConfig(),
}
COORDINATORS = ("sum", "features", "eagc", "upgrad", "pcgrad", "mgda", "cagrad")


def program(
    model: str, coordinator: str, dtype: Any, mesh: Mesh, *, small: bool
) -> Program:
    """One step from pixels to new parameters.

    Args:
      model: "vit_s16" or "vit_b16", at 224 pixels; the last block and the heads train.
      coordinator: "sum" is one backward pass of the weighted sum; "features" the same
        with the coordinator at the feature; the others have a gradient per objective.
      dtype: that the model computes in; parameters and optimizer are float32.
      mesh: of one axis.
      small: a tiny model.
    """
    config = SMALL if small else MODELS[model]
    config = dataclasses.replace(config, compute_dtype=dtype.name)
    graphdef, params, frozen = _whole(_parts(config), mesh)
    summed = coordinator in ("sum", "features")
    optimizer = _optimizer(None if summed else coordinator)
    opt_state = _whole(jax.eval_shape(optimizer.init, params), mesh)
    state = _whole(_coordinator_state(config.width), mesh)
    views, batch = _batch(config, SMALL_BATCH if small else BATCH, mesh)

    def one(params, opt_state, state, frozen, reference, views, batch):
        def rebuild(params):
            return nnx.merge(graphdef, nnx.State(params), frozen)

        coordination = None
        if coordinator == "features":
            coordination = step.Coordination(
                FeatureCoordination(),
                {"backbone": reference},
                state,
                jnp.float32(1.0),
            )
        tokens = rebuild(params).tokens(views)
        problem = step.Problem(PUBLISHED, rebuild, summed=summed)
        found = step.gradients(problem, params, tokens, batch, coordination, False)
        new = found.coordinator
        updates, opt_state = optimizer.update(
            found.gradients, opt_state, params, value=found.seen["losses"]
        )
        params = optax.apply_updates(params, updates)
        return params, opt_state, state if new is None else new

    arguments = (params, opt_state, state, frozen, params["backbone"], views, batch)
    results = jax.tree.map(lambda leaf: leaf.sharding, (params, opt_state, state))
    return Program(one, arguments, (0, 1), results)


def _optimizer(coordinator: str | None) -> optax.GradientTransformationExtraArgs:
    stages = [optax.sgd(0.1, momentum=0.9)]
    if coordinator is not None:
        gated = coordinator == "eagc"
        stages.insert(
            0,
            eagc(2, preset="article")
            if gated
            else getattr(aggregators, coordinator)(2),
        )
    return optax.with_extra_args_support(optax.chain(*stages))


def _parts(config: ViTConfig) -> tuple[Any, Any, Any]:
    """Graph definition, and the shapes of trained parameters and of the rest."""

    def build():
        rngs = nnx.Rngs(0)
        backbone = VisionTransformer(config, rngs=rngs)
        head = PUBLISHED.build_head(config.width, CLASSES, rngs=rngs)
        return DiscoveryModel(backbone, head)

    model = nnx.eval_shape(build)
    graphdef, trained, frozen = nnx.split(model, model.is_trainable, ...)
    return graphdef, nnx.to_pure_dict(trained), frozen


def _coordinator_state(width: int) -> features.CoordinatorState:
    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    return features.CoordinatorState(
        array(width, width), array(), array(dtype=jnp.int32), array(width)
    )


def _batch(config: ViTConfig, number: int, mesh: Mesh) -> tuple[Any, Batch]:
    def split(shape, dtype):
        where = NamedSharding(mesh, P(AXIS))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    pixels = (config.image_size, config.image_size, config.channels)
    epoch = _whole(jax.ShapeDtypeStruct((), jnp.float32), mesh)
    labels, labeled = split((number,), jnp.int32), split((number,), bool)
    return split((2 * number, *pixels), jnp.float32), Batch(labels, labeled, epoch)


def _whole(tree: Any, mesh: Mesh) -> Any:
    """The same on every chip."""
    where = NamedSharding(mesh, P())

    def place(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, tree)
