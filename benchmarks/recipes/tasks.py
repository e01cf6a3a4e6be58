"""Three recipes as tasks: their own models, losses, batches, optimizers and steps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from benchmarks.evidence.task import Draw, Task
from benchmarks.evidence.tasks import measures
from eagc_jax import sum_objectives
from examples.recipes import language_model, multi_task, physics_informed


def multi_task_of_four(steps: int | None = None) -> Task:
    """The error is the share of the variance left of the objective that is worst off."""
    x = jax.random.normal(jax.random.key(0), (512, 4))

    def losses(params, draw: Draw):
        return tuple(multi_task.losses_fn(params, *draw.data))

    def evaluate(params, data):
        x, y = data
        left = multi_task.variance_left(multi_task.losses_fn(params, x, y), y)
        return {"error": jnp.max(left)}

    return Task(
        family="multitask",
        name="multi_task",
        objectives=("sine", "product", "cosine", "tanh"),
        init=lambda key, data: multi_task.start(key),
        losses=losses,
        evaluate=evaluate,
        steps=steps or multi_task.STEPS,
        data=(x, multi_task.targets(x)),
        optimizer=lambda steps: optax.adam(multi_task.RATE),
    )


def physics(steps: int | None = None) -> Task:
    """The error is the relative one of the solution."""

    def losses(params, draw: Draw):
        points = jax.random.uniform(draw.key, (physics_informed.POINTS,))
        found = physics_informed.losses_fn(params, points)
        return found["equation"], found["boundary"]

    return Task(
        family="physics",
        name="physics_informed",
        objectives=("equation", "boundary"),
        init=lambda key, data: physics_informed.start(key),
        losses=losses,
        evaluate=lambda params, data: {
            "error": physics_informed.relative_error(params)
        },
        steps=steps or physics_informed.STEPS,
        optimizer=physics_informed.adam,
    )


def language(steps: int | None = None) -> Task:
    """The error is the geometric mean of both held-out losses.

    Every seed first learns sentences alone, as the recipe does; that is its start.
    """
    steps = steps or language_model.STEPS
    sentences, asked = language_model.sentence, language_model.instruction
    data = {
        "general": language_model.texts(sentences, 2000, 0),
        "asked": language_model.texts(asked, 2000, 1),
        "held_general": language_model.texts(sentences, 200, 2),
        "held_asked": language_model.texts(asked, 200, 3),
    }

    def losses(params, draw: Draw):
        return tuple(
            language_model.loss_of(params, language_model.some(lines, draw.key))
            for lines in (draw.data["asked"], draw.data["general"])
        )

    def init(key, data):
        def on_sentences(params, key):
            lines = language_model.some(data["general"], key)
            return [language_model.loss_of(params, lines)]

        params = language_model.start(key)
        plain = sum_objectives()
        return language_model.train(params, on_sentences, plain, steps)

    def evaluate(params, data):
        instructions = language_model.loss_of(params, data["held_asked"])
        general = language_model.loss_of(params, data["held_general"])
        return {
            "error": measures.geometric_mean([instructions, general]),
            "instructions": instructions,
            "sentences": general,
        }

    return Task(
        family="language",
        name="language_model",
        objectives=("instructions", "sentences"),
        init=init,
        losses=losses,
        evaluate=evaluate,
        steps=steps,
        data=data,
        optimizer=lambda steps: optax.adam(language_model.RATE),
    )


BUILDERS: dict[str, Callable[[int | None], Task]] = {
    "multi_task": multi_task_of_four,
    "physics_informed": physics,
    "language_model": language,
}
