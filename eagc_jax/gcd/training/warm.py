"""A warm start: labeled items first, then prototypes from clusters."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.training.chunks import train_epoch
from eagc_jax.gcd.training.epoch import Carry, Constants, Recipe, merge, optimizer_of

if TYPE_CHECKING:
    from eagc_jax.gcd.training.loop import TrainingRun


def warm_up(
    recipe: Recipe, graphdef: Any, carry: Carry, constants: Constants, run: TrainingRun
) -> Carry:
    """The carry to start from: parameters that were trained, the rest as at first."""
    settings = recipe.config.warm_start
    assert settings is not None
    if settings.epochs:
        params = _trained(recipe, graphdef, carry, constants, run, settings.epochs)
        carry = carry._replace(params=params)
    if settings.prototypes:
        params = _with_prototypes(graphdef, carry.params, run, settings.restarts)
        carry = carry._replace(params=params)
    return carry


def _trained(recipe, graphdef, carry, constants, run, epochs: int) -> Any:
    config = dataclasses.replace(recipe.config, log_every=0)
    optimizer = optimizer_of(config, None, recipe.steps, epochs)
    recipe = recipe._replace(
        config=config, optimizer=optimizer, summed=True, coordination=None, warm=True
    )
    carry = carry._replace(
        opt_state=jax.jit(optimizer.init)(carry.params), coordinator=None
    )
    for epoch in range(epochs):
        # Other draws than those of training.
        key = jax.random.fold_in(jax.random.fold_in(run._key, epoch), 1)
        carry, _ = train_epoch(
            recipe,
            graphdef,
            carry,
            constants,
            run._inputs,
            run.records.labels,
            key,
            epoch,
        )
    return carry.params


def _with_prototypes(graphdef, params: Any, run: TrainingRun, restarts: int) -> Any:
    labels = run.records.labels
    found = semi_supervised_kmeans(
        jax.random.key(run.config.seed),
        np.asarray(run._features(params)),
        run.task.num_classes,
        labels,
        labels >= 0,
        restarts=restarts,
    )
    head = merge(graphdef, run._own(params), run._frozen).head
    head = run.method.with_centres(head, found.centres)
    return {**params, "head": nnx.to_pure_dict(nnx.state(head, nnx.Param))}
