"""The next word against the sentence's intent, on one transformer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures, networks
from benchmarks.evidence.tasks.language import transformer, words

BATCH = 24


def shape_of(given: Given) -> transformer.Shape:
    if given.small:
        return transformer.Shape(vocabulary=40, length=8, width=8, heads=2, depth=1)
    return transformer.Shape()


def next_words(logits: jax.Array, tokens: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean cross-entropy of the tokens at which ``counted`` is true, but the first."""
    shares = jax.nn.log_softmax(logits[:, :-1])
    found = jnp.take_along_axis(shares, tokens[:, 1:, None], axis=-1)[..., 0]
    here = counted[:, 1:]
    return -jnp.sum(found * here) / jnp.maximum(jnp.sum(here), 1)


def build(name: str, source: str, given: Given) -> Task:
    """Objectives: the next word at each place; the intent from the mean state."""
    shape = shape_of(given)
    found = sources.halves(sources.sentences(source, given), given)
    known = words.vocabulary(found.train.items, shape.vocabulary)
    data = {
        "x": jnp.asarray(words.encoded(found.train.items, known, shape.length)),
        "y": jnp.asarray(found.train.classes),
        "test_x": jnp.asarray(words.encoded(found.test.items, known, shape.length)),
        "test_y": jnp.asarray(found.test.classes),
    }
    classes = len(found.train.names)

    def init(key, data):
        keys = jax.random.split(key)
        head = networks.dense(keys[1], (shape.width, classes))
        return {"model": transformer.init(keys[0], shape), "intent": head}

    def both(params, tokens, y):
        states = transformer.states(params["model"], tokens, shape.heads)
        there = (tokens != words.PAD)[..., None]
        mean = jnp.sum(states * there, axis=1) / jnp.sum(there, axis=1)
        logits = transformer.logits(params["model"], states)
        return (
            next_words(logits, tokens, tokens != words.PAD),
            networks.apply(params["intent"], mean),
        )

    def losses(params, draw: Draw):
        held = draw.data
        rows = measures.batch(draw.key, len(held["x"]), BATCH)
        word, intent = both(params, held["x"][rows], held["y"][rows])
        return word, measures.cross_entropy(intent, held["y"][rows])

    def evaluate(params, data):
        word, intent = both(params, data["test_x"], data["test_y"])
        errors = {"word": word, "intent": measures.error_rate(intent, data["test_y"])}
        return {"error": measures.geometric_mean(list(errors.values())), **errors}

    return Task(
        "language",
        name,
        ("word", "intent"),
        init,
        losses,
        evaluate,
        20 if given.small else 1000,
        data,
        functools.partial(decayed_adam, learning_rate=3e-3),
    )


for _name, _source in {
    "next-word-banking": "banking77-sample",
    "next-word-clinc": "clinc150",
}.items():
    task("language", _name)(functools.partial(build, _name, _source))
