"""A task with a fifth of its labels wrong beside a clean one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures, networks

WRONG, CLASSES, GROUPS, BATCH = 0.2, 10, 5, 64


def with_wrong(classes: np.ndarray, number: int, share: float) -> np.ndarray:
    """A share of the labels replaced by one of the others; drawn once."""
    random = np.random.default_rng(0)
    wrong = random.random(len(classes)) < share
    shifted = (classes + random.integers(1, number, len(classes))) % number
    return np.where(wrong, shifted, classes).astype(np.int32)


def build(name: str, source: str, given: Given) -> Task:
    """The class, clean; and the class modulo five, a fifth of the labels wrong.

    Errors are against the right labels. The network can learn all wrong ones by heart.
    """
    found = sources.halves(sources.images(source, given), given)
    flat = {
        half: getattr(found, half)._replace(
            items=getattr(found, half).items.reshape(
                len(getattr(found, half).items), -1
            )
        )
        for half in ("train", "test")
    }
    groups = found.train.classes % GROUPS
    data = {
        **sources.on_device(flat["train"]),
        **sources.on_device(flat["test"], "test_"),
        "groups": jnp.asarray(with_wrong(groups, GROUPS, WRONG)),
    }
    width = data["x"].shape[1]
    size = 16 if given.small else 128

    def init(key, data):
        keys = jax.random.split(key, 3)
        return {
            "trunk": networks.dense(keys[0], (width, size, size)),
            "class": networks.dense(keys[1], (size, CLASSES)),
            "group": networks.dense(keys[2], (size, GROUPS)),
        }

    def outputs(params, x):
        code = jax.nn.relu(networks.apply(params["trunk"], x, jax.nn.relu))
        return tuple(networks.apply(params[head], code) for head in ("class", "group"))

    def losses(params, draw: Draw):
        held = draw.data
        rows = measures.batch(draw.key, len(held["x"]), BATCH)
        classes, groups = outputs(params, held["x"][rows])
        return (
            measures.cross_entropy(classes, held["y"][rows]),
            measures.cross_entropy(groups, held["groups"][rows]),
        )

    def evaluate(params, data):
        classes, groups = outputs(params, data["test_x"])
        errors = {
            "clean": measures.error_rate(classes, data["test_y"]),
            "wrong": measures.error_rate(groups, data["test_y"] % GROUPS),
        }
        return {"error": measures.geometric_mean(list(errors.values())), **errors}

    return Task(
        "multitask",
        name,
        ("clean", "wrong"),
        init,
        losses,
        evaluate,
        20 if given.small else 1500,
        data,
        functools.partial(decayed_adam, learning_rate=1e-3),
    )


for _name, _source in {
    "wrong-digits": "digits",
    "wrong-clothes": "fashion-mnist",
}.items():
    task("multitask", _name)(functools.partial(build, _name, _source))
