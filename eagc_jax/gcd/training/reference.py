"""The reference model: the backbone after supervised training on the labeled images.

The published EAGC starts its student from this model and refers to its features: a
supervised warm start, which is a step of its own and helps or harms by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eagc_jax.gcd import losses
from eagc_jax.gcd.heads import CosineClassifier
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training import views
from eagc_jax.gcd.training.inputs import ImageInputs, PooledInputs, View, images_of
from eagc_jax.gcd.training.model import DiscoveryModel, GivenFeatures
from eagc_jax.gcd.training.settings import ReferenceConfig
from eagc_jax.typing import OptState, Params, PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone


def train_reference(
    config: ReferenceConfig,
    records: Records,
    backbone: Backbone,
    pool: views.ViewPool | None = None,
) -> Backbone:
    """Trains the last blocks and a classifier of the known classes; drops the latter.

    Args:
      config: how to train.
      records: of which the labeled images are used, and no other.
      backbone: what training starts from; it is not modified.
      pool: views drawn before, of all images of the records, or None.

    Returns:
      A backbone that differs from the given one in its last blocks alone.

    Raises:
      ValueError: fewer labeled images than one batch.

    References:
      Zheng et al., "EAGC", CVPR 2026, arXiv 2604.14176, stage 1.
    """
    labeled = np.flatnonzero(records.labeled_mask)
    if len(labeled) < config.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(labeled)} labeled images, got "
            f"{config.batch_size}"
        )

    head = _new_classifier(backbone.width, records.num_known, config.seed)
    model = DiscoveryModel(backbone, head, trainable_blocks=config.trainable_blocks)
    graphdef, trainable, frozen = nnx.split(model, model.is_trainable, ...)
    params = nnx.to_pure_dict(trainable)
    images = ImageInputs(images_of(records), config.augmentation)
    inputs = images if pool is None else PooledInputs(pool, images)
    plain = dataclasses.replace(config, seed=0)
    steps = len(labeled) // config.batch_size
    carry = params, _optimizer(plain, steps).init(params)
    key = jax.random.key(config.seed)
    columns = np.arange(config.batch_size)
    for epoch in range(config.epochs):
        order, keys = _drawn(
            jax.random.fold_in(key, epoch), len(labeled), steps, config.batch_size
        )
        rows = labeled[np.asarray(order)]
        arrays = inputs.read(rows, keys, columns)
        carry = _steps(
            plain,
            graphdef,
            inputs.view,
            steps,
            carry,
            frozen,
            arrays,
            records.labels[rows],
            keys,
        )
    found = nnx.merge(graphdef, nnx.State(carry[0]), frozen).backbone
    assert not isinstance(found, GivenFeatures)  # a backbone went in
    return found


@functools.partial(nnx.jit, static_argnums=(0, 1, 2))
def _new_classifier(width: int, num_classes: int, seed: int) -> CosineClassifier:
    return CosineClassifier(width, num_classes, rngs=nnx.Rngs(seed))


def _optimizer(config: ReferenceConfig, steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(
        config.learning_rate,
        config.epochs * steps,
        alpha=config.final_learning_rate / config.learning_rate,
    )
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _drawn(
    key: jax.Array, number: int, steps: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """An epoch's batches (steps, B) and the keys of their views."""
    order_key, view_key = jax.random.split(key)
    order = jax.random.permutation(order_key, number)[: steps * batch_size]
    return order.reshape(steps, batch_size), jax.random.split(view_key, steps)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _steps(
    config: ReferenceConfig,
    graphdef: nnx.GraphDef[DiscoveryModel],
    view: View,
    steps: int,
    carry: tuple[Params, OptState],
    frozen: PyTree,
    arrays: PyTree,
    labels: jax.Array,
    keys: jax.Array,
) -> tuple[Params, OptState]:
    optimizer = _optimizer(config, steps)

    def rebuild(params: Params) -> DiscoveryModel:
        return nnx.merge(graphdef, nnx.State(params), frozen)

    def step(carry, inputs):
        params, opt_state = carry
        arrays, labels, key = inputs
        tokens = view(key, arrays, rebuild(params))
        mask = jnp.ones(len(labels), bool)

        def loss_fn(params):
            model = rebuild(params)
            logits = model.head(model.features(tokens))
            return losses.labeled_cross_entropy(
                logits, labels, mask, temperature=config.temperature
            )

        updates, opt_state = optimizer.update(
            jax.grad(loss_fn)(params), opt_state, params
        )
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, carry, (arrays, labels, keys))[0]
