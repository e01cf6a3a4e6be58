"""What each way to get gradients costs beside the gradient of the summed loss.

    python -m benchmarks.gradients [--json FILE] [--fast] [--scan]

A trunk of six residual blocks (normalize, 256 -> 1024 -> 256), 3.2e6 parameters, 512
rows, and a linear head for each of K = 2, 4, 8 objectives; with ``--scan`` the trunk is
a ``jax.lax.scan`` over its blocks. Weights are UPGrad's. Per way:

- ``over_sum``: seconds over those of ``jax.value_and_grad`` of the summed loss, the
  median of paired, interleaved calls, each right after one of its own kind;
  ``theory``: what counting passes of the trunk says.
- ``memory``: temporary and output bytes of the compiled program beyond those of the
  summed loss, in units of n, the bytes of the parameters.

"exact" gives K gradients; "exact + upgrad" goes on to one update, as the others.
A stale step is one between two computations of the weights; "stale, 1 in 20" is the mean
over 20 steps, from the seconds of both kinds. Last, one objective per example: a network
of dense layers (1.3e6 parameters), 64 examples.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax import aggregators, value_and_grads, value_and_grads_at_feature
from eagc_jax.gradients import (
    StaleWeightsState,
    per_example_two_phase,
    stale_weights,
    tap,
    tap_dense,
    tapped_two_phase,
    two_phase,
    value_and_grad_from_representation,
    value_and_grad_of_one,
)
from eagc_jax.weightings import upgrad

BLOCKS, WIDTH, HIDDEN, ROWS, CLASSES = 6, 256, 1024, 512, 64


def make_params(number: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.key(0), 3)
    trunk = {
        "up": jax.random.normal(keys[0], (BLOCKS, WIDTH, HIDDEN)) / WIDTH**0.5,
        "down": jax.random.normal(keys[1], (BLOCKS, HIDDEN, WIDTH)) / HIDDEN**0.5,
        "bias": jnp.zeros((BLOCKS, HIDDEN)),
    }
    heads = jax.random.normal(keys[2], (number, WIDTH, CLASSES)) / WIDTH**0.5
    return trunk, {str(k): head for k, head in enumerate(heads)}


def block(x: jax.Array, layer: dict[str, jax.Array], probe: Any) -> jax.Array:
    layer = tap(layer, probe)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    normal = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    hidden = jax.nn.relu(normal @ layer["up"] + layer["bias"])
    return x + hidden @ layer["down"]


def apply_trunk(trunk: Any, x: jax.Array, probe: Any, scan: bool) -> jax.Array:
    if scan:
        return jax.lax.scan(lambda h, w: (block(h, w, probe), None), x, trunk)[0]
    for layer in trunk:
        x = block(x, layer, probe)
    return x


def head_loss(name: str) -> Callable[..., jax.Array]:
    def loss(heads: Any, z: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean((z @ heads[name] - x[:, :CLASSES]) ** 2)

    return loss


def ways(number: int, scan: bool) -> dict[str, tuple[Callable, tuple, float]]:
    """By name: a function, its arguments, the cost in theory over the summed loss."""
    trunk, heads = make_params(number)
    if not scan:
        trunk = [jax.tree.map(lambda w, i=i: w[i], trunk) for i in range(BLOCKS)]
    x = jax.random.normal(jax.random.key(1), (ROWS, WIDTH))
    params = {"trunk": trunk, "heads": heads}
    functions = {name: head_loss(name) for name in heads}

    def tapped(params, probe, x):
        z = apply_trunk(params["trunk"], x, probe, scan)
        heads = tap(params["heads"], probe)
        return jnp.stack([functions[name](heads, z, x) for name in functions])

    def losses_fn(params, x):
        return tapped(params, None, x)

    def features(trunk, x):
        return apply_trunk(trunk, x, None, scan)

    aggregator = aggregators.upgrad(number)
    state = aggregator.init(params)

    def exact_and_aggregator(params, x):
        losses, gradients = value_and_grads(losses_fn)(params, x)
        return losses, *aggregator.update(gradients, state, params)

    stale = stale_weights(losses_fn, upgrad, recompute_every=20)
    between = StaleWeightsState(jnp.int32(1), jnp.ones(number))
    plain, at_feature = (params, x), (trunk, heads, x)
    k = number
    return {
        "summed loss": (
            jax.value_and_grad(lambda p, x: jnp.sum(losses_fn(p, x))),
            plain,
            1.0,
        ),
        "exact": (value_and_grads(losses_fn), plain, (1 + 2 * k) / 3),
        "exact, loop": (value_and_grads(losses_fn, loop=True), plain, (1 + 2 * k) / 3),
        "exact + upgrad": (exact_and_aggregator, plain, (1 + 2 * k) / 3),
        "split at z": (
            value_and_grads_at_feature(features, functions),
            at_feature,
            (1 + 2 * k) / 3,
        ),
        "two-phase, columns": (two_phase(losses_fn, upgrad), plain, (3 + 4 * k) / 3),
        "two-phase, batched": (
            two_phase(losses_fn, upgrad, gram="batched"),
            plain,
            (3 + 2 * k) / 3,
        ),
        "two-phase, taps": (tapped_two_phase(tapped, upgrad), plain, (3 + 2 * k) / 3),
        "representation": (
            value_and_grad_from_representation(features, functions, upgrad),
            at_feature,
            1.0,
        ),
        "stale step": (
            lambda p, s, x: stale(p, s, x),
            (params, between, x),
            1.0,
        ),
        "one objective": (
            lambda p, k, x: value_and_grad_of_one(losses_fn)(p, k, x),
            (params, jnp.int32(1), x),
            1.0,
        ),
    }


def per_example() -> dict[str, tuple[Callable, tuple, float]]:
    sizes = [256, 640, 640, 640, 512, 10]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [
        (jax.random.normal(key, shape) / shape[0] ** 0.5, jnp.zeros(shape[1]))
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=False)
    ]
    x = jax.random.normal(keys[-1], (64, sizes[0]))

    def losses_fn(params, probe, x):
        for index, (kernel, bias) in enumerate(params):
            x = jax.nn.relu(x) if index else x
            x = tap_dense(x @ kernel + bias, x, probe)
        return jnp.sum(x**2, axis=1)

    def summed(params, x):
        return jnp.sum(losses_fn(params, None, x))

    def inverse_norms(gram):
        return 1 / jnp.sqrt(jnp.diagonal(gram))

    return {
        "summed loss": (jax.value_and_grad(summed), (params, x), 1.0),
        "per example": (
            per_example_two_phase(losses_fn, inverse_norms),
            (params, x),
            4 / 3,
        ),
    }


def measure(
    programs: dict[str, tuple[Callable, tuple, float]], number: int, rounds: int
) -> list[dict[str, Any]]:
    compiled = {
        name: jax.jit(function).lower(*arguments).compile()
        for name, (function, arguments, _) in programs.items()
    }
    calls = {
        name: lambda name=name: compiled[name](*programs[name][1]) for name in programs
    }
    seconds = interleaved_seconds(calls, rounds, repeat=True)
    leaves = jax.tree.leaves(programs["summed loss"][1][0])
    parameters = sum(leaf.size for leaf in leaves)

    def needed(name: str) -> int:
        found = compiled[name].memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes

    if "stale step" in seconds:
        fresh = seconds["two-phase, columns"]
        seconds["stale, 1 in 20"] = (19 * seconds["stale step"] + fresh) / 20
        programs = {**programs, "stale, 1 in 20": (None, (), 1 + (4 * number / 3) / 20)}
    return [
        {
            "way": name,
            "num_objectives": number,
            "parameters": parameters,
            "seconds": float(np.median(seconds[name])),
            "over_sum": float(np.median(seconds[name] / seconds["summed loss"])),
            "theory": theory,
            "memory": (
                needed("stale step" if name.startswith("stale") else name)
                - needed("summed loss")
            )
            / (4 * parameters),
        }
        for name, (_, _, theory) in programs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each")
    parser.add_argument("--scan", action="store_true", help="a trunk that scans")
    parser.add_argument("--fast", action="store_true", help="K = 2 alone, three rounds")
    arguments = parser.parse_args()
    print(machine())
    rounds = 3 if arguments.fast else arguments.rounds
    rows = []
    for number in (2,) if arguments.fast else (2, 4, 8):
        rows += measure(ways(number, arguments.scan), number, rounds)
    rows += measure(per_example(), 64, rounds)
    formats = {
        "way": "s",
        "num_objectives": "d",
        "parameters": "d",
        "seconds": ".4f",
        "over_sum": ".2f",
        "theory": ".2f",
        "memory": ".2f",
    }
    print_table(rows, formats)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
