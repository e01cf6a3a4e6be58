"""A warm start: labeled items first, then prototypes from clusters."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.training.checkpoints.manifest import Place
from eagc_jax.gcd.training.checkpoints.state import Inside
from eagc_jax.gcd.training.epoch import Carry, Recipe, merge, optimizer_of
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.typing import Params

if TYPE_CHECKING:
    from eagc_jax.gcd.training.loop import TrainingRun


def warm_up(
    recipe: Recipe,
    graphdef: nnx.GraphDef[DiscoveryModel],
    carry: Carry,
    run: TrainingRun,
) -> Carry:
    """The carry to start from: parameters that were trained, the rest as at first."""
    settings = recipe.config.warm_start
    assert settings is not None
    if settings.epochs:
        params = _trained(recipe, carry, run, settings.epochs)
        carry = carry._replace(params=params)
    if settings.prototypes:
        params = _with_prototypes(graphdef, carry.params, run, settings.restarts)
        carry = carry._replace(params=params)
    return carry


def first_carry(recipe: Recipe, carry: Carry) -> Carry:
    """What a warm start begins with: the run's carry, with its own optimizer's state."""
    state = jax.jit(_recipe_of(recipe).optimizer.init)(carry.params)
    return carry._replace(opt_state=state, coordinator=None)


def _recipe_of(recipe: Recipe) -> Recipe:
    """That of a run, with the warm objectives, whose sum has a cosine of its own."""
    assert recipe.config.warm_start is not None
    epochs = recipe.config.warm_start.epochs
    config = dataclasses.replace(recipe.config, log_every=0)
    return recipe._replace(
        config=config,
        optimizer=optimizer_of(config, None, recipe.steps, epochs),
        summed=True,
        coordination=None,
        warm=True,
    )


def _trained(
    recipe: Recipe, carry: Carry, run: TrainingRun, epochs: int
) -> dict[str, Params]:
    first, inside = 0, run._inside
    carry = first_carry(recipe, carry)
    if inside is not None:
        first, carry = inside.place.epoch, inside.carry
    for epoch in range(first, epochs):
        carry, _ = run._train_epoch(epoch, _recipe_of(recipe), carry)
        run._inside = Inside(Place(False, epoch + 1), carry)
        run._keeper.inside(run, run._inside)
    return carry.params


def _with_prototypes(
    graphdef: nnx.GraphDef[DiscoveryModel],
    params: dict[str, Params],
    run: TrainingRun,
    restarts: int,
) -> dict[str, Params]:
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
