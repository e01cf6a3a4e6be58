"""SimGCD's training step, plain and coordinated; and how busy it keeps the card.

One step from views on: the frozen blocks, the last block and the heads, losses,
gradients, coordination, SGD with momentum. Views are drawn before, so random resizing
isn't in it. "plain" is one backward pass of the weighted sum; "two passes" the sum of two
gradients, which every coordinator of gradients needs; "at the feature" the coordinator
of the CVPR 2026 paper.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.gpu import flops, trees
from benchmarks.gpu.compiling import Program, compile_all
from benchmarks.gpu.context import Context, Part, Row, attempt
from benchmarks.gpu.coordinators import COORDINATORS
from benchmarks.gpu.sizes import Sizes
from eagc_jax import features, sum_objectives
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.methods import Batch
from eagc_jax.gcd.training import step
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination

GOAL = 1.05  # over the plain step
PLAIN, TWO_PASSES, AT_FEATURE = "plain", "two passes", "at the feature"
_FIRST = (PLAIN, TWO_PASSES, AT_FEATURE)  # where threads are few, timed before others
_TRAINED_BLOCKS = 1


def part(model: str, dtype: str) -> Part:
    return Part(
        f"training/{model}/{dtype}",
        "a SimGCD step; FLOPs of the plain step over the time and the card's peak",
        (*_FIRST, *COORDINATORS),
        functools.partial(_rows, model, dtype),
    )


def ways(sizes: Sizes) -> dict[str, Callable[[], Any] | None]:
    """By name what reduces two gradients to one; None for one backward pass."""
    weights = sizes.method.objective_weights
    return {
        PLAIN: None,
        TWO_PASSES: lambda: sum_objectives(weights),
        AT_FEATURE: None,
        **{name: functools.partial(made, 2) for name, made in COORDINATORS.items()},
    }


# ---------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------


def _rows(model: str, dtype: str, context: Context) -> Iterator[Row]:
    config = dataclasses.replace(context.sizes.models[model], compute_dtype=dtype)
    problem = make_problem(context.sizes, config)
    seconds: dict[str, float] = {}
    arrays = None
    for name, program, init in _programs(problem):
        row = {"model": model, "dtype": dtype, "step": name}
        if program.error is None:
            row["compile_seconds"] = program.compile_seconds

        def measure(name=name, program=program, init=init):
            nonlocal arrays
            if arrays is None:
                arrays = make_arrays(problem)
            # Donated below, so each program gets its own.
            params = jax.tree.map(jnp.copy, arrays.params)
            carry = (params, init.call(params), arrays.state)
            return _measure(context, problem, name, program, carry, arrays, seconds)

        yield attempt(row, measure)


def _programs(problem: Problem) -> Iterator[tuple[str, Program, Program]]:
    """Each way's step, and what makes its optimizer's state."""
    reductions, threads = ways(problem.sizes), problem.sizes.threads
    groups = [_FIRST, tuple(COORDINATORS)]
    if threads >= len(reductions):  # all at once is the quickest
        groups = [(*_FIRST, *COORDINATORS)]
    for names in groups:
        made = {
            name: functools.partial(lower, problem, name, reductions[name])
            for name in names
        }
        for name in names:
            made[f"{name}, init"] = functools.partial(
                lower_init, problem, reductions[name]
            )
        programs = compile_all(made, threads)
        for name in names:
            yield name, programs[name], programs[f"{name}, init"]


def _measure(context, problem, name, program, carry, arrays, seconds) -> Row:
    kept = [carry]

    def call():
        kept[0] = program.call(*kept[0], arrays.frozen, arrays.reference, arrays.views)
        return kept[0]

    timing = context.time(call)
    seconds[name] = timing.seconds

    def over(other):
        return timing.seconds / seconds[other] if other in seconds else None

    needed = step_flops(problem)
    peak = flops.peak(context.device_kind, problem.config.compute_dtype)
    return {
        "seconds": timing.seconds,
        "host_seconds": timing.host_seconds,
        "over_plain": over(PLAIN),
        "over_two_passes": over(TWO_PASSES),
        "goal": None if name in (PLAIN, TWO_PASSES) else GOAL,
        "model_flops": float(needed),
        "flops_utilisation": needed / timing.seconds / peak if peak else None,
    }


# ---------------------------------------------------------------------------
# The step
# ---------------------------------------------------------------------------


class Problem(NamedTuple):
    """A model without numbers, split into what trains and what doesn't."""

    sizes: Sizes
    config: ViTConfig
    graphdef: Any
    params: dict[str, Any]
    frozen: Any
    state: features.CoordinatorState
    views: jax.ShapeDtypeStruct  # (2B, H, W, C)


class Arrays(NamedTuple):
    """Numbers for a problem."""

    params: dict[str, Any]
    frozen: Any
    reference: Any  # another backbone's trained blocks
    state: features.CoordinatorState
    views: jax.Array


def make_problem(sizes: Sizes, config: ViTConfig) -> Problem:
    def build():
        rngs = nnx.Rngs(0)
        backbone = VisionTransformer(config, rngs=rngs)
        head = sizes.method.build_head(config.width, sizes.classes, rngs=rngs)
        return DiscoveryModel(backbone, head, trainable_blocks=_TRAINED_BLOCKS)

    model = nnx.eval_shape(build)
    graphdef, trained, frozen = nnx.split(model, model.is_trainable, ...)
    shape = (2 * sizes.batch, *[config.image_size] * 2, config.channels)
    return Problem(
        sizes,
        config,
        graphdef,
        nnx.to_pure_dict(trained),
        frozen,
        jax.eval_shape(functools.partial(_coordinator_state, config.width)),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )


def make_arrays(problem: Problem) -> Arrays:
    """Small random parameters: what they are doesn't change what a step costs."""
    params = trees.fill(problem.params, seed=1, scale=0.05)
    state = jax.jit(functools.partial(_coordinator_state, problem.config.width))()
    return Arrays(
        params,
        trees.fill(problem.frozen, seed=2, scale=0.05),
        jax.tree.map(lambda x: 0.99 * x, params["backbone"]),
        state,
        trees.fill(problem.views, seed=3),
    )


def _coordinator_state(width: int) -> features.CoordinatorState:
    pool = jax.random.normal(jax.random.key(2), (512, width))
    conceptor = features.conceptor(pool)
    return features.init_coordinator(conceptor, features.energy_ratio(pool, conceptor))


def make_optimizer(reduce: Callable[[], Any] | None) -> Any:
    sgd = optax.sgd(0.1, momentum=0.9)
    return sgd if reduce is None else optax.chain(reduce(), sgd)


def make_batch(sizes: Sizes) -> Batch:
    """Every second image is labeled."""
    rows = jnp.arange(sizes.batch)
    labels = jnp.where(rows % 2 == 0, rows % sizes.classes, -1)
    return Batch(labels, labels >= 0, jnp.float32(0))


def make_step(problem: Problem, name: str, reduce: Callable[[], Any] | None) -> Any:
    optimizer = make_optimizer(reduce)

    def one(params, opt_state, state, frozen, reference, views):
        def rebuild(params):
            return nnx.merge(problem.graphdef, nnx.State(params), frozen)

        coordination = None
        if name == AT_FEATURE:
            coordination = step.Coordination(
                FeatureCoordination(),
                {"backbone": reference},
                state,
                jnp.float32(1.0),
            )
        tokens = rebuild(params).tokens(views)
        simgcd = step.Problem(problem.sizes.method, rebuild, summed=reduce is None)
        batch = make_batch(problem.sizes)
        found = step.gradients(simgcd, params, tokens, batch, coordination, False)
        updates, opt_state = optimizer.update(found.gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        new_state = found.coordinator
        return params, opt_state, state if new_state is None else new_state

    return one, optimizer


def lower(problem: Problem, name: str, reduce: Callable[[], Any] | None) -> Any:
    """The step, traced and lowered."""
    one, optimizer = make_step(problem, name, reduce)
    return jax.jit(one, donate_argnums=(0, 1)).lower(
        problem.params,
        jax.eval_shape(optimizer.init, problem.params),
        problem.state,
        problem.frozen,
        problem.params["backbone"],
        problem.views,
    )


def lower_init(problem: Problem, reduce: Callable[[], Any] | None) -> Any:
    """Of the optimizer's state."""
    return jax.jit(make_optimizer(reduce).init).lower(problem.params)


def step_flops(problem: Problem) -> int:
    method = problem.sizes.method
    return flops.simgcd_step(
        problem.config,
        2 * problem.sizes.batch,
        trained_blocks=_TRAINED_BLOCKS,
        hidden=method.head_hidden,
        projection=method.head_projection,
        classes=problem.sizes.classes,
    )
