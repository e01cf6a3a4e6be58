"""The reference model: the backbone after supervised training on the labeled images.

The published EAGC starts its student from this model and refers to its features: a
supervised warm start, which is a step of its own and helps or harms by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eagc_jax.gcd import data, losses
from eagc_jax.gcd.heads import CosineClassifier
from eagc_jax.gcd.methods.base import check
from eagc_jax.gcd.models import DiscoveryModel, VisionTransformer
from eagc_jax.gcd.training import views
from eagc_jax.gcd.training.augmentation import Augmentation, two_views


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """How the reference model is trained; the released settings where they apply.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    epochs: int = 30  # passes over the labeled images
    batch_size: int = 32  # labeled images per step, two views each
    learning_rate: float = 0.02  # SGD's first; falls along a cosine, step by step
    final_learning_rate: float = 2e-5
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of all parameters, as released
    temperature: float = 0.1  # of the cross-entropy
    trainable_blocks: int = 1
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            check(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("learning_rate", "final_learning_rate", "temperature"):
            check(name, getattr(self, name), "positive", getattr(self, name) > 0)
        check("momentum", self.momentum, "in [0, 1)", 0 <= self.momentum < 1)
        decay = self.weight_decay
        check("weight_decay", decay, "at least 0", decay >= 0)


def train_reference(
    config: ReferenceConfig,
    split: data.DiscoverySplit,
    backbone: VisionTransformer,
    pool: views.ViewPool | None = None,
) -> VisionTransformer:
    """Trains the last blocks and a classifier of the known classes; drops the latter.

    Args:
      config: how to train.
      split: of which the labeled images are used, and no other.
      backbone: what training starts from; it is not modified.
      pool: views drawn before, of all images of the split, or None.

    Returns:
      A backbone that differs from the given one in its last blocks alone.

    Raises:
      ValueError: fewer labeled images than one batch.

    References:
      Zheng et al., "EAGC", CVPR 2026, arXiv 2604.14176, stage 1.
    """
    labeled = np.flatnonzero(split.labeled_mask)
    if len(labeled) < config.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(labeled)} labeled images, got "
            f"{config.batch_size}"
        )

    @nnx.jit
    def build_head():
        rngs = nnx.Rngs(config.seed)
        return CosineClassifier(backbone.config.width, split.num_known, rngs=rngs)

    model = DiscoveryModel(
        backbone, build_head(), trainable_blocks=config.trainable_blocks
    )
    graphdef, trainable, frozen = nnx.split(model, model.is_trainable, ...)
    params = nnx.to_pure_dict(trainable)
    if pool is not None:
        inputs = pool.tokens[labeled]
    else:
        inputs = jnp.asarray(split.images)[labeled]
    labels = jnp.asarray(split.labels)[labeled]
    plain = dataclasses.replace(config, seed=0)
    carry = params, _optimizer(plain, len(labeled) // config.batch_size).init(params)
    key = jax.random.key(config.seed)
    for epoch in range(config.epochs):
        carry = _epoch(
            plain,
            graphdef,
            pool is not None,
            carry,
            frozen,
            inputs,
            labels,
            jax.random.fold_in(key, epoch),
        )
    return nnx.merge(graphdef, nnx.State(carry[0]), frozen).backbone


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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(config, graphdef, pooled, carry, frozen, inputs, labels, key):
    steps = len(labels) // config.batch_size
    optimizer = _optimizer(config, steps)
    order_key, view_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(labels))
    batches = order[: steps * config.batch_size].reshape(steps, -1)

    def rebuild(params: Any) -> DiscoveryModel:
        return nnx.merge(graphdef, nnx.State(params), frozen)

    def step(carry, drawn):
        params, opt_state = carry
        chosen, key = drawn
        if pooled:
            tokens = views.draw(key, inputs, chosen)
        else:
            seen = two_views(key, inputs[chosen], config.augmentation)
            tokens = rebuild(params).tokens(seen)
        mask = jnp.ones(len(chosen), bool)

        def loss_fn(params):
            model = rebuild(params)
            logits = model.head(model.features(tokens))
            return losses.labeled_cross_entropy(
                logits, labels[chosen], mask, temperature=config.temperature
            )

        updates, opt_state = optimizer.update(
            jax.grad(loss_fn)(params), opt_state, params
        )
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(view_key, steps)
    return jax.lax.scan(step, carry, (batches, keys))[0]
