"""How long aggregators take to compile: ``benchmarks.aggregators --compile``.

An update of the aggregator followed by Adam, for the parameters of a ViT-B/16 (152
leaves), K = 2 and 4: tracing and lowering, and compiling, in seconds, each the least of
``--rounds`` (3 at most), and compiling less that of ``sum_objectives`` with Adam, of the
same round. ``processor_seconds`` and ``over_sum`` count the processor's time, which
other programs on the machine disturb less.
"""

import argparse
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.coordinate import LAYOUTS, vit_b16_shapes
from benchmarks.timing import machine, print_table, write_json
from eagc_jax import aggregators, eagc, sum_objectives

NOT_HERE = {  # wrappers, and one that takes a single objective's gradient
    "from_weighting",
    "accumulate_objectives",
    "momentum_conflict_free",
}
FORMATS = {
    "method": "s",
    "num_objectives": "d",
    "trace_seconds": ".1f",
    "compile_seconds": ".1f",
    "processor_seconds": ".1f",
    "over_sum": ".1f",
}


def methods() -> dict[str, Callable[..., Any]]:
    """Every aggregator, and ``eagc`` with its fast gate, by name."""
    found = {"eagc": functools.partial(eagc, preset="article")}
    for name in aggregators.__all__:
        factory = getattr(aggregators, name)
        if inspect.isfunction(factory) and name not in NOT_HERE:
            found[name] = factory
    return found


def compile_update(tx: Any, number: int, shapes: Any) -> dict[str, float]:
    """Seconds to trace and lower, and to compile, one update with Adam after it."""
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    gradients = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((number, *p.shape), p.dtype), params
    )
    chain = optax.with_extra_args_support(optax.chain(tx, optax.scale_by_adam()))

    def update(gradients, state, params, value):
        return chain.update(gradients, state, params, value=value)

    losses = jax.ShapeDtypeStruct((number,), jnp.float32)
    jax.clear_caches()
    start = time.perf_counter()
    state = jax.eval_shape(chain.init, params)
    lowered = jax.jit(update, donate_argnums=1).lower(gradients, state, params, losses)
    traced, processor = time.perf_counter(), time.process_time()
    lowered.compile()
    return {
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "processor_seconds": time.process_time() - processor,
    }


def measure(number: int, names: list[str], rounds: int, shapes: Any) -> list[Any]:
    known = methods()
    made = {"sum": sum_objectives()}
    for name in names:
        try:
            made[name] = known[name](number)
        except ValueError as error:
            print(f"{name} at K = {number} is left out: {error}")
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, tx in made.items():
            found = compile_update(tx, number, shapes)
            before = best.get(name, found)
            best[name] = {key: min(before[key], found[key]) for key in found}
    least = best["sum"]["processor_seconds"]
    return [
        {
            "part": "compile",
            "method": name,
            "num_objectives": number,
            **seconds,
            "over_sum": seconds["processor_seconds"] - least,
        }
        for name, seconds in best.items()
    ]


def run(arguments: argparse.Namespace) -> None:
    """Prints the table and writes the rows."""
    print(machine())
    names = arguments.only or list(methods())
    shapes = LAYOUTS["one leaf, 1e6"] if arguments.fast else vit_b16_shapes()
    rows: list[Any] = []
    for number in (2,) if arguments.fast else (2, 4):
        rows += measure(number, names, min(arguments.rounds, 3), shapes)
    print_table(rows, FORMATS)
    write_json(arguments.json, rows)
