"""What a step of training costs with weighted losses, over the plain sum of the losses.

    python -m benchmarks.loss_weighting [--json FILE] [--fast]

A whole step, compiled and donated: forward pass, one backward pass, Adam; a network of
three dense layers, 256 rows, K = 3 losses. Steps of all methods are called in turn, each
right after a step of the plain sum; ``over_sum`` is the median of the ratios of such
pairs, with the quartiles, and ``sum`` itself, measured as if it were a method, says how
much of that is the machine's noise. ``K gradients`` is the step that makes them and
reduces them by uncertainty weighting's aggregator. The aim is 1.02.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax import aggregators, loss_weighting, value_and_grads
from eagc_jax.weighted_losses import METHODS

K, ROWS = 3, 256
GRADIENTS = "K gradients"


def parameters(width: int) -> list[dict[str, jax.Array]]:
    """Three dense layers."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        {
            "kernel": jax.random.normal(key, (width, width)) / width**0.5,
            "bias": jnp.zeros(width),
        }
        for key in keys
    ]


def losses_fn(params: list[dict[str, jax.Array]], x: jax.Array) -> tuple[Any, ...]:
    """Three losses of one network."""
    for layer in params:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.mean((x - 0.3) ** 2), 5 * jnp.mean((x + 0.3) ** 2), jnp.mean(jnp.abs(x))


def step_of(name: str) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """A step ``(params, states, x) -> (params, states)``, and its states."""
    adam = optax.adam(1e-3)
    if name == GRADIENTS:
        tx = optax.chain(aggregators.uncertainty_weighting(K), adam)

        def step(params, state, x):
            losses, grads = value_and_grads(losses_fn)(params, x)
            updates, state = tx.update(grads, state, params, value=losses)
            return optax.apply_updates(params, updates), state

        return step, tx.init
    weighting = None if name == "sum" else loss_weighting(name, K)  # pyright: ignore

    def total(params, state, x):
        losses = losses_fn(params, x)
        if weighting is None:
            return sum(losses), state
        return weighting.update(losses, state)

    def step(params, states, x):
        of_losses, moments = states
        gradient, of_losses = jax.grad(total, has_aux=True)(params, of_losses, x)
        updates, moments = adam.update(gradient, moments, params)
        return optax.apply_updates(params, updates), (of_losses, moments)

    def init(params):
        return () if weighting is None else weighting.init(), adam.init(params)

    return step, init


def program_of(name: str, width: int) -> Callable[[], Any]:
    """One step of a training run of its own, at every call."""
    step, init = step_of(name)
    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = parameters(width)
    held = [params, init(params)]
    x = jax.random.normal(jax.random.key(1), (ROWS, width))

    def program():
        held[:] = compiled(*held, x)
        return held

    return program


def measure(width: int, rounds: int) -> list[dict[str, Any]]:
    """One row a method."""
    names = ("sum", *METHODS, GRADIENTS)
    plain = program_of("sum", width)
    rows = []
    for name in names:
        pair = {"plain": plain, name + " ": program_of(name, width)}
        seconds = interleaved_seconds(pair, rounds, repeat=True)
        ratios = seconds[name + " "] / seconds["plain"]
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        rows.append(
            {
                "method": name,
                "ms": 1e3 * float(np.median(seconds[name + " "])),
                "over_sum": float(middle),
                "low": float(low),
                "high": float(high),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measures, prints, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_json_option(parser)
    parser.add_argument(
        "--fast", action="store_true", help="small, to see that it runs"
    )
    options = parser.parse_args(arguments)
    width, rounds = (32, 3) if options.fast else (1024, 41)
    rows = measure(width, rounds)
    print(machine())
    spec = {"method": "s", "ms": ".2f", "over_sum": ".3f", "low": ".3f", "high": ".3f"}
    print_table(rows, spec)
    write_json(options.json, rows)
    return rows


if __name__ == "__main__":
    main()
