"""CLINC150's requests as features: the intent, its domain, and the feature again."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures, networks
from benchmarks.evidence.tasks.multitask.domains import DOMAINS, domain_numbers

BATCH = 128


@task("multitask", "intents")
def intents(given: Given) -> Task:
    """150 intents, 10 domains, reconstruction, on a narrow shared layer."""
    labeled = sources.features("clinc150", given)
    found = sources.halves(labeled, given)
    numbers = domain_numbers()
    try:
        domains = np.array([numbers[name] for name in labeled.names], np.int32)
    except KeyError as error:
        raise ValueError(
            f"clinc150 should have the known intents, has {error}"
        ) from error
    data = {
        **sources.on_device(found.train),
        **sources.on_device(found.test, "test_"),
        "domains": jnp.asarray(domains),
    }
    width = data["x"].shape[1]

    def init(key, data):
        keys = jax.random.split(key, 4)
        return {
            "trunk": networks.dense(keys[0], (width, 64)),
            "intent": networks.dense(keys[1], (64, len(labeled.names))),
            "domain": networks.dense(keys[2], (64, len(DOMAINS))),
            "feature": networks.dense(keys[3], (64, width)),
        }

    def outputs(params, x):
        code = jax.nn.relu(networks.apply(params["trunk"], x))
        return tuple(
            networks.apply(params[head], code)
            for head in ("intent", "domain", "feature")
        )

    def losses(params, draw: Draw):
        held = draw.data
        rows = measures.batch(draw.key, len(held["x"]), BATCH)
        x, y = held["x"][rows], held["y"][rows]
        intent, domain, feature = outputs(params, x)
        return (
            measures.cross_entropy(intent, y),
            measures.cross_entropy(domain, held["domains"][y]),
            jnp.mean(jnp.sum((feature - x) ** 2, axis=1)),
        )

    def evaluate(params, data):
        x, y = data["test_x"], data["test_y"]
        intent, domain, feature = outputs(params, x)
        spread = jnp.mean(jnp.sum((x - x.mean(0)) ** 2, axis=1))
        errors = {
            "intent": measures.error_rate(intent, y),
            "domain": measures.error_rate(domain, data["domains"][y]),
            "feature": jnp.mean(jnp.sum((feature - x) ** 2, axis=1)) / spread,
        }
        return {"error": measures.geometric_mean(list(errors.values())), **errors}

    return Task(
        "multitask",
        "intents",
        ("intent", "domain", "feature"),
        init,
        losses,
        evaluate,
        20 if given.small else 2000,
        data,
        functools.partial(decayed_adam, learning_rate=2e-3),
    )
