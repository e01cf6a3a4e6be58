"""One epoch as one compiled program, and what its compilation depends on."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from eagc_jax.gcd.methods import Method
from eagc_jax.gcd.methods.base import Batch
from eagc_jax.gcd.models import DiscoveryModel
from eagc_jax.gcd.training import parallel, step, views
from eagc_jax.gcd.training.augmentation import two_views
from eagc_jax.gcd.training.sampling import sample_indices
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig


class Recipe(NamedTuple):
    """What an epoch's compilation depends on; hashable."""

    config: TrainConfig
    method: Method
    optimizer: optax.GradientTransformation
    summed: bool
    coordination: FeatureCoordination | None
    steps: int  # per epoch
    mesh: Mesh | None = None  # over which batches are divided


class Data(NamedTuple):
    """The data set, the same on every device, and the model's frozen part."""

    frozen: Any
    images: jax.Array
    labels: jax.Array
    labeled_mask: jax.Array
    num_known: jax.Array
    pool: jax.Array | None  # (N, V, T, width)


@functools.lru_cache(maxsize=64)
def optimizer_of(
    config: TrainConfig, aggregator: optax.GradientTransformation | None, steps: int
) -> optax.GradientTransformation:
    """Aggregator, weight decay of kernels, SGD along a cosine."""
    schedule = optax.cosine_decay_schedule(
        config.learning_rate,
        config.epochs * steps,
        alpha=config.final_learning_rate / config.learning_rate,
    )
    stages = [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.sgd(schedule, momentum=config.momentum),
    ]
    if config.head_rate != 1:
        stages.append(optax.masked(optax.scale(config.head_rate), _is_head))
    chain = optax.chain(*([] if aggregator is None else [aggregator]), *stages)
    return optax.with_extra_args_support(chain)


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _is_head(params: Any) -> Any:
    return {
        name: jax.tree.map(lambda _, name=name: name == "head", part)
        for name, part in params.items()
    }


def merge(graphdef, params, frozen) -> DiscoveryModel:
    """The model of these trainable parameters."""
    return nnx.merge(graphdef, nnx.State(params), frozen)


@functools.partial(jax.jit, static_argnames=("recipe", "graphdef"))
def run_epoch(recipe, graphdef, carry, key, epoch, reference, arrays):
    """All steps of one epoch; returns the new carry and the traces of all steps."""
    config = recipe.config
    frozen, images, labels, labeled_mask, num_known, pool = arrays
    draw_key, view_key = jax.random.split(key)
    shape = (recipe.steps, config.batch_size)
    # Every process draws the same rows.
    indices = sample_indices(draw_key, labeled_mask, shape)
    mesh = recipe.mesh

    def rebuild(params):
        return merge(graphdef, params, frozen)

    problem = step.Problem(recipe.method, rebuild, recipe.summed)

    def one(carry, inputs):
        params, opt_state, state = carry
        number, chosen, key = inputs
        # What follows is computed where its rows are; sums over rows, so gradients of
        # means, are summed over devices by the compiler before the optimizer sees them.
        chosen = parallel.divided(chosen, mesh)
        # Outside of the differentiated function: the prefix runs once per batch.
        if pool is None:
            seen = two_views(key, images[chosen], config.augmentation)
            tokens = rebuild(params).tokens(seen)
        else:
            tokens = views.draw(key, pool, chosen)
        tokens = parallel.divided(tokens, mesh)
        batch = Batch(labels[chosen], labeled_mask[chosen], epoch, num_known)
        coordination = None
        if recipe.coordination is not None:
            now = strength(recipe.coordination, epoch)
            coordination = step.Coordination(recipe.coordination, reference, state, now)
        measure = False
        if config.log_every:
            measure = number % config.log_every == 0
        gradients, state, seen = step.gradients(
            problem, params, tokens, batch, coordination, measure
        )
        # Losses are for aggregators that look at them; others don't see the keyword.
        updates, opt_state = recipe.optimizer.update(
            gradients, opt_state, params, value=seen["losses"]
        )
        params = optax.apply_updates(params, updates)
        carry = parallel.whole((params, opt_state, state), mesh)
        return carry, parallel.whole(step.trace(seen, opt_state), mesh)

    keys = jax.random.split(view_key, recipe.steps)
    return jax.lax.scan(one, carry, (jnp.arange(recipe.steps), indices, keys))


def strength(settings: FeatureCoordination, epoch: jax.Array) -> jax.Array:
    """What the coordination at the feature is multiplied by, in [0, 1]."""
    if settings.decay_epochs == 0:
        return jnp.float32(1.0)
    return jnp.clip(1 - epoch / settings.decay_epochs, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"))
def features_of(graphdef, params, frozen, tokens, mesh=None):
    """Features of tokens; with a mesh every device gets those of all rows."""
    return parallel.whole(merge(graphdef, params, frozen).features(tokens), mesh)
