"""Some steps as one compiled program, and what its compilation depends on."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from eagc_jax.features import CoordinatorState
from eagc_jax.gcd.methods import Method
from eagc_jax.gcd.methods.base import Batch
from eagc_jax.gcd.training import measures, parallel, step
from eagc_jax.gcd.training.inputs import View
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig
from eagc_jax.typing import OptState, Params, PyTree


class Recipe(NamedTuple):
    """What the compilation of training steps depends on; hashable."""

    config: TrainConfig
    method: Method
    optimizer: optax.GradientTransformationExtraArgs
    summed: bool
    coordination: FeatureCoordination | None
    view: View  # of the inputs
    steps: int  # per epoch
    mesh: Mesh | None = None  # over which batches are divided
    warm: bool = False  # steps of the warm start


class Carry(NamedTuple):
    """What one step hands to the next."""

    params: Params  # by name: the heads, and what trains below
    opt_state: OptState
    coordinator: CoordinatorState | None
    method: PyTree  # the method's state


class Chunk(NamedTuple):
    """What some steps need of the data; S steps in front."""

    number: jax.Array  # (S,) int32, the step's number in its epoch
    arrays: PyTree  # of the inputs
    rows: jax.Array  # (S, B) int32
    labels: jax.Array  # (S, B) int32, -1 on unlabeled items
    keys: jax.Array  # (S,)


class Constants(NamedTuple):
    """The same in every step."""

    frozen: PyTree  # the model's frozen part, an `nnx.State`
    reference: dict[str, Params] | None  # the reference model's trained part, or None
    num_known: jax.Array


@functools.lru_cache(maxsize=64)
def optimizer_of(
    config: TrainConfig,
    aggregator: optax.GradientTransformation | None,
    steps: int,
    epochs: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Aggregator, weight decay of kernels, SGD along a cosine."""
    schedule = optax.cosine_decay_schedule(
        config.learning_rate,
        (config.epochs if epochs is None else epochs) * steps,
        alpha=config.final_learning_rate / config.learning_rate,
    )
    stages = [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.sgd(schedule, momentum=config.momentum),
    ]
    rates = {"head": config.head_rate, "adapter": config.adapter.rate}
    for name, rate in rates.items():
        if rate != 1 and (name == "head" or config.trains == "adapter"):
            mask = functools.partial(_is_part, name)
            stages.append(optax.masked(optax.scale(rate), mask))
    chain = optax.chain(*([] if aggregator is None else [aggregator]), *stages)
    return optax.with_extra_args_support(chain)


def program_of(recipe: Recipe, params: dict[str, Params], opt_state: OptState) -> str:
    """The optimizer's update as text: what it does, whatever it is called."""
    number = len(recipe.method.objective_names)
    lead = () if recipe.summed else (number,)
    gradients = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((*lead, *p.shape), p.dtype), params
    )
    losses = jax.ShapeDtypeStruct((number,), jnp.float32)
    update = jax.jit(recipe.optimizer.update)
    return update.lower(gradients, opt_state, params, value=losses).as_text()


def _is_kernel(params: Params) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _is_part(wanted: str, params: dict[str, Params]) -> PyTree:
    return {
        name: jax.tree.map(lambda _, name=name: name == wanted, part)
        for name, part in params.items()
    }


def merge(
    graphdef: nnx.GraphDef[DiscoveryModel], params: dict[str, Params], frozen: PyTree
) -> DiscoveryModel:
    """The model of these trainable parameters."""
    return nnx.merge(graphdef, nnx.State(params), frozen)


@functools.partial(jax.jit, static_argnames=("recipe", "graphdef"))
def run_steps(
    recipe: Recipe,
    graphdef: nnx.GraphDef[DiscoveryModel],
    carry: Carry,
    chunk: Chunk,
    epoch: jax.Array,
    constants: Constants,
) -> tuple[Carry, measures.Trace]:
    """All steps of a chunk; returns the new carry and the traces of all steps."""
    config, mesh = recipe.config, recipe.mesh

    def rebuild(params: dict[str, Params]) -> DiscoveryModel:
        return merge(graphdef, params, constants.frozen)

    problem = step.Problem(recipe.method, rebuild, recipe.summed, recipe.warm)

    def one(carry: Carry, chunk: Chunk) -> tuple[Carry, measures.Trace]:
        params, opt_state, state, method_state = carry
        # What follows is computed where its rows are; sums over rows, so gradients of
        # means, are summed over devices by the compiler before the optimizer sees them.
        # Outside of the differentiated function: the prefix runs once per batch.
        tokens = recipe.view(chunk.keys, chunk.arrays, rebuild(params))
        tokens = parallel.divided(tokens, mesh)
        labels = chunk.labels
        known = constants.num_known
        batch = Batch(labels, labels >= 0, epoch, known, chunk.rows)
        coordination = None
        if recipe.coordination is not None:
            assert state is not None  # the coordinator's
            now = strength(recipe.coordination, epoch)
            coordination = step.Coordination(
                recipe.coordination, constants.reference, state, now
            )
        measure = False
        if config.log_every:
            measure = chunk.number % config.log_every == 0
        found = step.gradients(
            problem, params, tokens, batch, coordination, measure, method_state
        )
        # Losses are for aggregators that look at them; others don't see the keyword.
        updates, opt_state = recipe.optimizer.update(
            found.gradients, opt_state, params, value=found.seen["losses"]
        )
        params = optax.apply_updates(params, updates)
        carry = Carry(params, opt_state, found.coordinator, found.method_state)
        trace = measures.trace(found.seen, opt_state)
        return parallel.whole(carry, mesh), parallel.whole(trace, mesh)

    return jax.lax.scan(one, carry, chunk)


def strength(settings: FeatureCoordination, epoch: jax.Array) -> jax.Array:
    """What the coordination at the feature is multiplied by, in [0, 1]."""
    if settings.decay_epochs == 0:
        return jnp.float32(1.0)
    return jnp.clip(1 - epoch / settings.decay_epochs, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"))
def tokens_of(
    graphdef: nnx.GraphDef[DiscoveryModel],
    params: dict[str, Params],
    frozen: PyTree,
    arrays: PyTree,
    mesh: Mesh | None = None,
) -> PyTree:
    """The frozen prefix's tokens of some items."""
    return parallel.divided(merge(graphdef, params, frozen).tokens(arrays), mesh)


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"))
def features_of(
    graphdef: nnx.GraphDef[DiscoveryModel],
    params: dict[str, Params],
    frozen: PyTree,
    tokens: PyTree,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Features of tokens; with a mesh every device gets those of all rows."""
    return parallel.whole(merge(graphdef, params, frozen).features(tokens), mesh)


@functools.partial(jax.jit, static_argnames=("method", "graphdef"))
def assigned(
    method: Method,
    graphdef: nnx.GraphDef[DiscoveryModel],
    params: dict[str, Params],
    frozen: PyTree,
    state: PyTree,
    features: jax.Array,
) -> jax.Array:
    """(N,) int32 classes: the largest logits."""
    head = merge(graphdef, params, frozen).head
    return jnp.argmax(method.assign(head, state, features), axis=1).astype(jnp.int32)
