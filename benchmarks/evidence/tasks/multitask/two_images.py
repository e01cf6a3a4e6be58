"""Two images in one, overlapping: the class of each, and the picture again."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures, networks

CLASSES, BATCH, TESTED = 10, 128, 2000


def composed(first: jax.Array, second: jax.Array) -> jax.Array:
    """``(B, side, side)`` twice to ``(B, pixels)``: up left and down right, the brighter.

    Shifted by two sevenths of a side for large images, half of one for small ones, and
    large ones averaged over 2 x 2 pixels.
    """
    side = first.shape[-1]
    shift = 8 if side == 28 else side // 2
    both = jnp.maximum(
        jnp.pad(first, ((0, 0), (0, shift), (0, shift))),
        jnp.pad(second, ((0, 0), (shift, 0), (shift, 0))),
    )
    if side == 28:
        half = both.shape[-1] // 2
        both = both.reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return both.reshape(len(both), -1)


def build(name: str, source: str, given: Given) -> Task:
    """Objectives: the class up left, the class down right, reconstruction."""
    found = sources.halves(sources.images(source, given), given)
    data = {
        **sources.on_device(found.train),
        **sources.on_device(found.test, "test_"),
    }
    size = 16 if given.small else 128
    tested = 64 if given.small else TESTED
    pixels = composed(data["x"][:1], data["x"][:1]).shape[1]

    def init(key, data):
        keys = jax.random.split(key, 4)
        code = size // 2
        return {
            "encoder": networks.dense(keys[0], (pixels, size, code)),
            "first": networks.dense(keys[1], (code, CLASSES)),
            "second": networks.dense(keys[2], (code, CLASSES)),
            "decoder": networks.dense(keys[3], (code, size, pixels)),
        }

    def outputs(params, picture):
        code = jax.nn.relu(networks.apply(params["encoder"], picture, jax.nn.relu))
        return tuple(
            networks.apply(params[head], code, jax.nn.relu)
            for head in ("first", "second", "decoder")
        )

    def pairs(key, x, y, count):
        keys = jax.random.split(key)
        a, b = (measures.batch(k, len(x), count) for k in keys)
        return composed(x[a], x[b]), y[a], y[b]

    def losses(params, draw: Draw):
        held = draw.data
        picture, a, b = pairs(draw.key, held["x"], held["y"], BATCH)
        first, second, again = outputs(params, picture)
        return (
            measures.cross_entropy(first, a),
            measures.cross_entropy(second, b),
            jnp.mean((again - picture) ** 2),
        )

    def evaluate(params, data):
        picture, a, b = pairs(jax.random.key(0), data["test_x"], data["test_y"], tested)
        first, second, again = outputs(params, picture)
        errors = {
            "first": measures.error_rate(first, a),
            "second": measures.error_rate(second, b),
            "picture": jnp.mean((again - picture) ** 2) / jnp.mean(jnp.var(picture, 0)),
        }
        return {"error": measures.geometric_mean(list(errors.values())), **errors}

    return Task(
        "multitask",
        name,
        ("first", "second", "picture"),
        init,
        losses,
        evaluate,
        20 if given.small else 2000,
        data,
        functools.partial(decayed_adam, learning_rate=1e-3),
    )


for _name, _source in {
    "two-digits": "digits",
    "two-mnist": "mnist",
    "two-clothes": "fashion-mnist",
}.items():
    task("multitask", _name)(functools.partial(build, _name, _source))
