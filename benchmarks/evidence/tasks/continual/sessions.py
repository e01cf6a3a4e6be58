"""Split and permuted images, and intents, in five sessions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.evidence import data as sources
from benchmarks.evidence.data import Halves, Labeled
from benchmarks.evidence.task import Draw, Given, Task, task
from benchmarks.evidence.tasks import measures, networks

SESSIONS, BATCH, KEPT = 5, 64, 100


def by_class(found: Halves) -> list[Halves]:
    """A fifth of the classes in each session."""
    number = len(found.train.names)
    groups = np.array_split(np.arange(number), SESSIONS)

    def of(part: Labeled, group: np.ndarray) -> Labeled:
        rows = np.flatnonzero(np.isin(part.classes, group))
        return Labeled(part.items[rows], part.classes[rows], part.names)

    return [Halves(*(of(part, group) for part in found)) for group in groups]


def permuted(found: Halves) -> list[Halves]:
    """All classes in each session, the pixels in another order; as they are at first."""
    width = found.train.items.shape[1]
    orders = [np.arange(width)] + [
        np.random.default_rng(n).permutation(width) for n in range(1, SESSIONS)
    ]
    return [
        Halves(*(part._replace(items=part.items[:, order]) for part in found))
        for order in orders
    ]


def arrays(sessions: Sequence[Halves]) -> dict[str, jax.Array]:
    """``(sessions, rows, ...)``, as many rows in each as in the smallest."""

    def stacked(half: str, field: str) -> np.ndarray:
        parts = [getattr(getattr(one, half), field) for one in sessions]
        rows = min(len(part) for part in parts)
        return np.stack([part[:rows] for part in parts])

    return {
        "x": jnp.asarray(stacked("train", "items"), jnp.float32),
        "y": jnp.asarray(stacked("train", "classes"), jnp.int32),
        "test_x": jnp.asarray(stacked("test", "items"), jnp.float32),
        "test_y": jnp.asarray(stacked("test", "classes"), jnp.int32),
    }


def flattened(found: Halves) -> Halves:
    return Halves(
        *(
            part._replace(items=part.items.reshape(len(part.items), -1))
            for part in found
        )
    )


def build(name: str, source: str, kind: str, given: Given) -> Task:
    """Objectives: the batch of the session that runs, and one of what was kept.

    Of each earlier session 100 rows are kept. In the first session, which has no
    earlier one, the second batch is another one of its own.
    """
    load = sources.features if kind == "intents" else sources.images
    found = flattened(sources.halves(load(source, given), given))
    data = arrays(permuted(found) if kind == "permuted" else by_class(found))
    rows, width = data["x"].shape[1:]
    kept = min(KEPT, rows)
    size = 16 if given.small else 128
    classes = len(found.train.names)

    def init(key, data):
        return networks.dense(key, (width, size, size, classes))

    def loss(params, x, y):
        return measures.cross_entropy(networks.apply(params, x, jax.nn.relu), y)

    def losses(params, draw: Draw):
        held = draw.data
        now = jnp.minimum(jnp.int32(draw.share * SESSIONS), SESSIONS - 1)
        keys = jax.random.split(draw.key, 4)
        new = measures.batch(keys[0], rows, BATCH)
        first = now == 0
        which = jax.random.randint(keys[1], (BATCH,), 0, jnp.maximum(now, 1))
        old = jnp.where(
            first,
            measures.batch(keys[2], rows, BATCH),
            measures.batch(keys[3], kept, BATCH),
        )
        return (
            loss(params, held["x"][now, new], held["y"][now, new]),
            loss(params, held["x"][which, old], held["y"][which, old]),
        )

    def evaluate(params, data):
        def of_session(x, y):
            return measures.error_rate(networks.apply(params, x, jax.nn.relu), y)

        errors = jax.vmap(of_session)(data["test_x"], data["test_y"])
        return {
            "error": jnp.mean(errors),
            "earlier": jnp.mean(errors[:-1]),
            "last": errors[-1],
        }

    return Task(
        "continual",
        name,
        ("new", "replay"),
        init,
        losses,
        evaluate,
        20 if given.small else 2000,
        data,
        lambda steps: optax.adam(1e-3),
    )


for _name, _arguments in {
    "split-clothes": ("fashion-mnist", "split"),
    "permuted-clothes": ("fashion-mnist", "permuted"),
    "split-digits": ("digits", "split"),
    "permuted-digits": ("digits", "permuted"),
    "intents": ("banking77-sample", "intents"),
}.items():
    task("continual", _name)(functools.partial(build, _name, *_arguments))
