"""Updates alone, as a share of the copy bandwidth; and the memory they need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.gpu import trees
from benchmarks.gpu.compiling import Program, compile_all
from benchmarks.gpu.context import Context, Part, Row, attempt, check_share
from eagc_jax import aggregators, eagc

GOAL = 0.7  # of the copy bandwidth

# By the name the tables give them, from K to a transformation.
COORDINATORS: dict[str, Callable[[int], Any]] = {
    **{
        f"eagc, {granularity}": functools.partial(
            eagc, preset="article", granularity=granularity
        )
        for granularity in ("global", "tensor", "channel")
    },
    "upgrad": aggregators.upgrad,
    "mgda": aggregators.mgda,
    "pcgrad": aggregators.pcgrad,
    "cagrad": aggregators.cagrad,
    "conflict_free": aggregators.conflict_free,  # ConFIG
    "nash_mtl": aggregators.nash_mtl,
    "gcond": aggregators.gcond,
}


def update_part(number: int, dtype: str) -> Part:
    return Part(
        f"coordinators/{dtype}/{number}",
        "an update alone; share of the copy bandwidth that it would need if it read K "
        "gradients twice, its state once, and wrote the update and the state",
        tuple(COORDINATORS),
        functools.partial(_update_rows, number, dtype),
    )


def memory_part(number: int, dtype: str) -> Part:
    return Part(
        f"memory/{dtype}/{number}",
        "an update and its addition to the parameters; with these and the state donated, "
        "and without; the K gradients are in both",
        tuple(COORDINATORS),
        functools.partial(_memory_rows, number, dtype),
    )


def bound_bytes(params: Any, gradients: Any, state: Any) -> int:
    """What an update that assesses before it combines must read and write at least."""
    read = 2 * trees.count_bytes(gradients) + trees.count_bytes(state)
    return read + trees.count_bytes(params) + trees.count_bytes(state)


# ---------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------


def _update_rows(number: int, dtype: str, context: Context) -> Iterator[Row]:
    shapes = context.sizes.tree
    params = trees.abstract(shapes, (), dtype)
    abstract = trees.abstract(shapes, (number,), dtype)
    lower = {}
    for name, factory in COORDINATORS.items():
        lower[name] = functools.partial(
            _lower_update, factory, number, abstract, params
        )
        # One by one, each would keep the card waiting for seconds.
        lower[f"{name}, init"] = functools.partial(_lower_init, factory, number, params)
    programs = compile_all(lower, context.sizes.threads)
    gradients = None
    for name in COORDINATORS:
        program, init = programs[name], programs[f"{name}, init"]
        row = {"method": name, "num_objectives": number, "dtype": dtype, "goal": GOAL}
        if program.error is None:
            row["trace_seconds"] = program.trace_seconds
            row["compile_seconds"] = program.compile_seconds

        def measure(program=program, init=init):
            nonlocal gradients
            if gradients is None:
                gradients = trees.fill(abstract, seed=number)
            state = init.call(trees.fill(params))
            return _measure_update(context, program, gradients, state)

        yield attempt(row, measure)


def _lower_update(factory, number, gradients, params):
    tx = factory(number)
    state = jax.eval_shape(tx.init, params)
    update = jax.jit(lambda g, s: tx.update(g, s), donate_argnums=1)
    return update.lower(gradients, state)


def _lower_init(factory, number, params):
    return jax.jit(factory(number).init).lower(params)


def _measure_update(
    context: Context, program: Program, gradients: Any, state: Any
) -> Row:
    kept = [state]

    def call():
        update, kept[0] = program.call(gradients, kept[0])
        return update

    params = jax.eval_shape(lambda: jax.tree.map(lambda g: g[0], gradients))
    needed = bound_bytes(params, gradients, state)
    timing = context.time(call)
    if context.copy_bytes_per_second is None:
        share = None
    else:
        share = check_share(needed / timing.seconds / context.copy_bytes_per_second)
    return {
        "bound_bytes": needed,
        "seconds": timing.seconds,
        "host_seconds": timing.host_seconds,
        "share": share,
    }


# ---------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------


def _memory_rows(number: int, dtype: str, context: Context) -> Iterator[Row]:
    shapes = context.sizes.tree
    params = trees.abstract(shapes, (), dtype)
    gradients = trees.abstract(shapes, (number,), dtype)
    programs = compile_all(
        {
            f"{name}, {donated}": functools.partial(
                _lower_step, factory, number, gradients, params, donated
            )
            for name, factory in COORDINATORS.items()
            for donated in (True, False)
        },
        context.sizes.threads,
    )
    for name in COORDINATORS:
        row = {"method": name, "num_objectives": number, "dtype": dtype}
        yield attempt(row, functools.partial(_both, programs, name))


def _lower_step(factory, number, gradients, params, donated):
    tx = factory(number)
    state = jax.eval_shape(tx.init, params)

    def step(params, state, gradients):
        update, state = tx.update(gradients, state, params)
        update = jax.tree.map(lambda u: jnp.asarray(-0.1, u.dtype) * u, update)
        return optax.apply_updates(params, update), state

    compiled = jax.jit(step, donate_argnums=(0, 1) if donated else ())
    return compiled.lower(params, state, gradients)


def _both(programs: dict[str, Program], name: str) -> Row:
    found = {}
    for donated, column in ((True, "donated_bytes"), (False, "undonated_bytes")):
        found[column] = programs[f"{name}, {donated}"].peak_bytes()
    return found
