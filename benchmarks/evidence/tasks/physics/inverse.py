"""An inverse problem: which k(x), if u_t = (k u_x)_x and u was measured with noise?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import common, references

NOISE = 0.01  # standard deviation; u is at most 1
MEASURED = 500
END = 1.0


def coefficient(x: np.ndarray) -> np.ndarray:
    """What is to be found: a hump and a slope, 0.1 on average."""
    return 0.1 + 0.05 * np.sin(2 * np.pi * x) + 0.04 * (x - 0.5)


def start(x, of=np):
    return of.sin(np.pi * x) + 0.5 * of.sin(3 * np.pi * x)


def reference(cells: int, substeps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, times 0, 0.02, ... 1, and u."""
    times = np.linspace(0, END, 51)
    x, u = references.diffusing(start, coefficient, times, cells, substeps)
    return x, times, u


def measurements(cells: int, substeps: int, count: int) -> dict[str, jax.Array]:
    """Noisy values at places and times drawn once: every seed has the same."""
    x, times, u = reference(cells, substeps)
    random = np.random.default_rng(0)
    moment = random.integers(0, len(times), count)
    place = random.integers(1, len(x) - 1, count)
    noisy = u[moment, place] + NOISE * random.normal(size=count)
    nodes = np.linspace(0, 1, 101)
    found = {
        "points": np.stack([x[place], times[moment]], axis=1),
        "values": noisy,
        "nodes": nodes[:, None],
        "coefficient": coefficient(nodes),
    }
    return {name: jnp.asarray(v, jnp.float32) for name, v in found.items()}


@task("physics", "inverse")
def inverse(given: Given) -> Task:
    """Two networks, u(x, t) and k(x): measurements, residual, boundary and start.

    The error is that of k alone, which no objective sees.
    """
    size = common.size_of(given)
    count = 32 if given.small else MEASURED

    def permeability(layers: networks.Layers, x: jax.Array) -> networks.Derivatives:
        # k = 0.1 exp(network): positive, and in the right order of magnitude.
        raw = networks.derivatives(layers, x, ())
        k = 0.1 * jnp.exp(raw.value)
        return networks.Derivatives(k, k * raw.first, raw.second)

    def losses(params, draw: Draw) -> tuple[jax.Array, ...]:
        keys = jax.random.split(draw.key, 3)
        data = draw.data
        inside = common.within(keys[0], size.inside, (0, 0), (1, END))
        u = networks.derivatives(params["u"], inside, (0,))
        k = permeability(params["k"], inside[:, :1])
        residual = u.first[1] - k.value * u.second[0] - k.first[0] * u.first[0]
        late = common.along(keys[1], size.edge // 2, 0, END)
        walls = jnp.concatenate([common.at(0.0, late), common.at(1.0, late)])
        first = common.along(keys[2], size.edge, 0, 1)
        initial = common.value(params["u"], common.at(first, 0.0)) - start(first, jnp)
        seen = common.value(params["u"], data["points"]) - data["values"]
        return (
            common.mean_square(seen),
            common.mean_square(residual),
            common.mean_square(common.value(params["u"], walls))
            + common.mean_square(initial),
        )

    def evaluate(params, data):
        found = permeability(params["k"], data["nodes"]).value
        return {"error": common.relative_error(found, data["coefficient"])}

    def init(key, data):
        keys = jax.random.split(key)
        narrow = size._replace(hidden=size.hidden[:2])
        return {
            "u": common.field(keys[0], size),
            "k": common.field(keys[1], narrow, inputs=1),
        }

    return Task(
        "physics",
        "inverse",
        ("measurements", "equation", "boundary"),
        init,
        losses,
        evaluate,
        size.steps,
        measurements(400 // size.fine, 4, count),
    )
