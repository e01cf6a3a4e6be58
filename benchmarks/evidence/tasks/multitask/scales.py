"""Regression of several outputs in units from 1e-3 to 1e3."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from benchmarks.evidence import data as sources
from benchmarks.evidence.task import Draw, Given, Task, decayed_adam, task
from benchmarks.evidence.tasks import measures, networks

OUTPUTS, BATCH = 5, 64


def build(name: str, table: str, inputs: slice, outputs: slice, given: Given) -> Task:
    """Columns from other columns of a table, one objective an output.

    Outputs, the table's and the network's, are standardized and then multiplied by 1e-3
    to 1e3: in other units, squared losses differ by a factor of 1e12.
    """
    columns, names = sources.table(table)
    order = np.random.default_rng(0).permutation(len(columns))
    cut = len(order) // 4
    x, y = columns[:, inputs], columns[:, outputs][:, :OUTPUTS]
    scales = jnp.asarray(np.logspace(-3, 3, OUTPUTS), jnp.float32)
    data = {
        "x": jnp.asarray(x[order[cut:]]),
        "y": jnp.asarray(y[order[cut:]]) * scales,
        "test_x": jnp.asarray(x[order[:cut]]),
        "test_y": jnp.asarray(y[order[:cut]]),
    }

    def init(key, data):
        return networks.dense(key, (x.shape[1], 32, 32, OUTPUTS))

    def predicted(params, x):
        return networks.apply(params, x) * scales

    def losses(params, draw: Draw):
        held = draw.data
        rows = measures.batch(draw.key, len(held["x"]), BATCH)
        missed = predicted(params, held["x"][rows]) - held["y"][rows]
        return tuple(jnp.mean(missed[:, k] ** 2) for k in range(OUTPUTS))

    def evaluate(params, data):
        missed = predicted(params, data["test_x"]) / scales - data["test_y"]
        each = jnp.mean(missed**2, axis=0)
        found = {f"output {k}".replace(" ", "_"): each[k] for k in range(OUTPUTS)}
        # A few hundred rows: what fits them better may be further off elsewhere.
        held = (predicted(params, data["x"]) - data["y"]) / scales
        fitted = list(jnp.mean(held**2, axis=0))
        return {
            "error": measures.geometric_mean(list(found.values())),
            "training": measures.geometric_mean(fitted),
            **found,
        }

    chosen = names[outputs][:OUTPUTS]
    return Task(
        "multitask",
        name,
        tuple(chosen),
        init,
        losses,
        evaluate,
        20 if given.small else 3000,
        data,
        functools.partial(decayed_adam, learning_rate=2e-3),
    )


# Breast cancer: the ten "worst" sizes of a nucleus from the ten means; wine: the last
# five measurements from the first eight.
for _name, _arguments in {
    "scales-cells": ("breast-cancer", slice(0, 10), slice(20, 30)),
    "scales-wine": ("wine", slice(0, 8), slice(8, 13)),
}.items():
    task("multitask", _name)(functools.partial(build, _name, *_arguments))
