"""The parts of a run: model, inputs, the reference model's trained part."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd.methods import Method
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.inputs import (
    FeatureInputs,
    ImageInputs,
    Inputs,
    LoadedInputs,
    Neighbours,
    PooledInputs,
    has_images_in_memory,
    images_of,
)
from eagc_jax.gcd.training.model import (
    DiscoveryModel,
    GivenFeatures,
    ResidualAdapter,
)
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig
from eagc_jax.gcd.training.step import below_of
from eagc_jax.gcd.training.views import ViewPool
from eagc_jax.typing import Params, PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone


def number_of_classes(records: Records, num_classes: int | None) -> int:
    """As given, or as the true classes say."""
    found = records.num_classes if num_classes is None else num_classes
    if found is None:
        raise ValueError(
            f"num_classes is needed: {records.name} has no true classes to count; give "
            "the number of known and novel classes together, or an estimate of it"
        )
    if found < records.num_known:
        raise ValueError(
            f"num_classes must be at least the {records.num_known} known classes, got "
            f"{found}"
        )
    return found


def build_model(
    config: TrainConfig,
    method: Method,
    backbone: Backbone | None,
    features: np.ndarray | None,
    num_classes: int,
) -> tuple[DiscoveryModel, int]:
    """The model with new heads, and the width of its feature."""
    network: Backbone | GivenFeatures
    if config.trains != "blocks":
        if features is None:
            raise ValueError(
                f"features are needed where {config.trains} trains below the heads: "
                "give those of eagc_jax.gcd.backbones.embed"
            )
        network = GivenFeatures(np.shape(features)[1])
    elif backbone is None:
        raise ValueError("backbone is needed where its last blocks train")
    else:
        network = backbone

    model = DiscoveryModel(
        network,
        _new_head(method, network.width, num_classes, config.seed),
        trainable_blocks=config.blocks_that_train,
        adapter=_new_adapter(network.width, config.adapter.hidden, config.seed)
        if config.trains == "adapter"
        else None,
    )
    return model, network.width


# One compilation each, which later runs of equal settings share; op by op, a start would
# take seconds.
@functools.partial(nnx.jit, static_argnums=(0, 1, 2, 3))
def _new_head(method: Method, width: int, num_classes: int, seed: int) -> nnx.Module:
    return method.build_head(width, num_classes, rngs=nnx.Rngs(seed))


@functools.partial(nnx.jit, static_argnums=(0, 1, 2))
def _new_adapter(width: int, hidden: int | None, seed: int) -> ResidualAdapter:
    rngs = nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))
    return ResidualAdapter(width, hidden, rngs=rngs)


def build_inputs(
    config: TrainConfig,
    records: Records,
    model: DiscoveryModel,
    pool: ViewPool | None,
    features: np.ndarray | None,
    neighbours: np.ndarray | None,
) -> Inputs:
    """What steps read: features, views from a pool, or images."""
    if config.trains != "blocks":
        assert features is not None  # `build_model` asks for them
        given = _feature_inputs(config, records, features, neighbours)
        return given if pool is None else _pooled(records, pool, given, unit=True)
    if not has_images_in_memory(records) and pool is None:
        _check_images(records)
        assert not isinstance(model.backbone, GivenFeatures)  # as blocks train
        return LoadedInputs(records, model.backbone, config.augmentation)
    inputs = ImageInputs(images_of(records), config.augmentation)
    if pool is None:
        return inputs
    if pool.frozen_blocks != model.frozen_blocks:
        raise ValueError(
            f"pool has {pool.frozen_blocks} frozen blocks behind it, the model "
            f"{model.frozen_blocks}"
        )
    return _pooled(records, pool, inputs)


def _pooled(
    records: Records,
    pool: ViewPool,
    items: ImageInputs | FeatureInputs,
    *,
    unit: bool = False,
) -> PooledInputs:
    if len(pool.tokens) != len(records):
        raise ValueError(
            f"pool has {len(pool.tokens)} images, the records {len(records)}"
        )
    return PooledInputs(pool, items, unit=unit)


def _check_images(records: Records) -> None:
    if records.kind != "image":
        raise ValueError(
            f"{records.name} holds items of kind {records.kind!r}, and blocks train on "
            "images: train an adapter on their features, trains='adapter'"
        )


def _feature_inputs(
    config: TrainConfig,
    records: Records,
    features: np.ndarray,
    neighbours: np.ndarray | None,
) -> FeatureInputs:
    if len(features) != len(records):
        raise ValueError(
            f"features must have a row for each of the {len(records)} items, got "
            f"{len(features)}"
        )
    near = None
    if config.adapter.neighbours:
        if neighbours is None:
            from eagc_jax.gcd.backbones.neighbours import neighbours as find

            neighbours = find(features, config.adapter.neighbours)
        table = neighbours[:, : config.adapter.neighbours]
        near = Neighbours(table, ~records.labeled_mask)
    return FeatureInputs(features, noise=config.adapter.noise, neighbours=near)


def reference_part(
    config: TrainConfig,
    coordination: FeatureCoordination | None,
    params: dict[str, Params],
    frozen: PyTree,
    backbone: Backbone | None,
    reference: Backbone | None,
) -> dict[str, Params] | None:
    """The reference model's trained part below the feature; None without coordination."""
    if coordination is None:
        return None
    if reference is None or reference is backbone:
        return below_of(params)
    model = DiscoveryModel(
        reference, nnx.Module(), trainable_blocks=config.blocks_that_train
    )
    _, trained, theirs = nnx.split(model, model.is_trainable, ...)
    own = nnx.to_pure_dict(frozen).get("backbone", {})
    other = nnx.to_pure_dict(theirs).get("backbone", {})
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), own, other)
    if not all(jax.tree.leaves(same)):
        raise ValueError(
            "reference must have the backbone's frozen prefix: train it with the "
            "same trainable_blocks, from the same backbone"
        )
    return below_of(nnx.to_pure_dict(trained))
