"""Answering, from a checkpoint that was trained on sentences in general."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures
from benchmarks.evidence.tasks.language import transformer, words
from benchmarks.evidence.tasks.language.classifying import BATCH, next_words, shape_of

PRETRAINED = 500  # steps


def build(name: str, source: str, given: Given) -> Task:
    """Objectives: the words of the answer after a sentence; the next word in general.

    An answer is the intent's name in words. The start of every arm is a model trained
    on the general part alone, on one half of the sentences; both objectives go on from
    there, so that the answers must not cost what was learnt.
    """
    shape = shape_of(given)
    found = sources.halves(sources.sentences(source, given), given)
    names = [name.replace("_", " ") for name in found.train.names]
    known = words.vocabulary([*found.train.items, *names], shape.vocabulary)
    steps = 4 if given.small else PRETRAINED

    def tokens(part, answered: bool):
        answers = [names[c] for c in part.classes] if answered else None
        return jnp.asarray(words.encoded(part.items, known, shape.length, answers))

    def halved(part):
        middle = len(part.items) // 2
        return (
            part._replace(items=part.items[:middle], classes=part.classes[:middle]),
            part._replace(items=part.items[middle:], classes=part.classes[middle:]),
        )

    general, asked = halved(found.train)
    data = {
        "general": tokens(general, False),
        "asked": tokens(asked, True),
        "test_general": tokens(found.test, False),
        "test_asked": tokens(found.test, True),
    }

    def of_general(params, batch):
        states = transformer.states(params, batch, shape.heads)
        logits = transformer.logits(params, states)
        return next_words(logits, batch, batch != words.PAD)

    def of_answers(params, batch):
        states = transformer.states(params, batch, shape.heads)
        after = jnp.cumsum(batch == words.ANSWER, axis=1) > 0
        answer = after & (batch != words.ANSWER) & (batch != words.PAD)
        return next_words(transformer.logits(params, states), batch, answer)

    def init(key, data):
        """The checkpoint: trained on the general part alone."""
        keys = jax.random.split(key)
        params = transformer.init(keys[0], shape)
        optimizer = decayed_adam(steps, 3e-3)

        def step(carry, number):
            params, state = carry
            drawn = jax.random.fold_in(keys[1], number)
            rows = measures.batch(drawn, len(data["general"]), BATCH)
            gradient = jax.grad(of_general)(params, data["general"][rows])
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jnp.arange(steps))[0][0]

    def losses(params, draw: Draw):
        held = draw.data
        keys = jax.random.split(draw.key)
        rows = measures.batch(keys[0], len(held["asked"]), BATCH)
        others = measures.batch(keys[1], len(held["general"]), BATCH)
        return (
            of_answers(params, held["asked"][rows]),
            of_general(params, held["general"][others]),
        )

    def evaluate(params, data):
        errors = {
            "answer": of_answers(params, data["test_asked"]),
            "general": of_general(params, data["test_general"]),
        }
        return {"error": measures.geometric_mean(list(errors.values())), **errors}

    return Task(
        "language",
        name,
        ("answer", "general"),
        init,
        losses,
        evaluate,
        20 if given.small else 600,
        data,
        functools.partial(decayed_adam, learning_rate=1e-3),
    )


for _name, _source in {
    "instructions-banking": "banking77-sample",
    "instructions-clinc": "clinc150",
}.items():
    task("language", _name)(functools.partial(build, _name, _source))
