"""One network, two losses that can't both be small, eleven trade-offs in one program.

    python -m examples.pareto_front [--output runs/pareto_front.png]

A small network learns one function of x; one loss wants it to be a sine, the other a
step, and neither counts a point that is far off for more than 1: robust losses, as
against outliers, which make the front concave. A weighted sum of such losses gives up one
of the two, whatever the weights: it finds the ends. Exact Pareto optimal search (EPO) and
the smooth Chebyshev scalarization find what lies between, a point for each preference.

Each front is one compiled program of eleven trainings side by side. The program prints
the hypervolume of each and its largest gap, draws them, and asserts that the methods with
preferences cover what the weighted sum doesn't.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import pareto_front
from eagc_jax.pareto import ParetoFront, hypervolume, plot_fronts

POINTS, STEPS, WIDTH = 11, 1500, 16
REFERENCE = jnp.array([1.0, 1.0])
METHODS = {
    "weighted_sum": {},
    "smooth_chebyshev": {"mu": 0.02},
    "epo": {},
}


def losses_fn(params: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Two robust losses of one function."""
    x = jnp.linspace(-1, 1, 64)[:, None]
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    y = (hidden @ params["out"])[:, 0]
    aims = jnp.sin(3 * x[:, 0]) + 0.7, jnp.tanh(8 * x[:, 0]) - 0.7
    one, two = (jnp.mean(1 - jnp.exp(-((y - aim) ** 2))) for aim in aims)
    return one, two


def start(key: jax.Array) -> dict[str, jax.Array]:
    """The network's parameters."""
    keys = jax.random.split(key, 3)
    return {
        "in": 2 * jax.random.normal(keys[0], (1, WIDTH)),
        "bias": jax.random.normal(keys[1], (WIDTH,)),
        "out": 0.1 * jax.random.normal(keys[2], (WIDTH, 1)),
    }


def front_of(method: str) -> ParetoFront:
    """Eleven trainings with one method."""
    share = jnp.linspace(0.1, 0.9, POINTS)
    return pareto_front(
        losses_fn,
        start(jax.random.key(0)),
        jnp.stack([share, 1 - share], axis=1),
        method=method,  # pyright: ignore[reportArgumentType]
        optimizer=optax.adam(3e-3),
        steps=STEPS,
        **METHODS[method],
    )


def largest_gap(losses: jax.Array) -> float:
    """Between neighbours along the front, in the larger of the two losses."""
    points = np.asarray(losses)[np.argsort(losses[:, 0])]
    return float(np.max(np.abs(np.diff(points, axis=0))))


def main(arguments: list[str] | None = None) -> dict[str, ParetoFront]:
    """Trains the three fronts, prints, draws, and checks the claim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/pareto_front.png"))
    options = parser.parse_args(arguments)
    fronts, volume, gap = {}, {}, {}
    for method in METHODS:
        begin = time.perf_counter()
        fronts[method] = jax.block_until_ready(front_of(method))
        seconds = time.perf_counter() - begin
        volume[method] = float(hypervolume(fronts[method].losses, REFERENCE))
        gap[method] = largest_gap(fronts[method].losses)
        print(
            f"{method:16s} hypervolume {volume[method]:.3f}, largest gap "
            f"{gap[method]:.2f}, {POINTS} trainings in {seconds:.1f} s"
        )
    plot_fronts(fronts, reference=REFERENCE, path=options.output)
    print(f"wrote {options.output}")
    for method in ("smooth_chebyshev", "epo"):
        assert volume[method] > 1.1 * volume["weighted_sum"], volume
        assert gap[method] < 0.5 * gap["weighted_sum"], gap
    return fronts


if __name__ == "__main__":
    main()
