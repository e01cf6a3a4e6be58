"""The arms: ways to turn K objectives into steps, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optax

import eagc_jax
from benchmarks.evidence import rules
from benchmarks.evidence.annealing import learning_rate_annealing
from benchmarks.evidence.task import Task
from eagc_jax import aggregators

SUM, TUNED, STATIC = "sum", "tuned", "static"


class Arm(NamedTuple):
    """An arm, not yet at work on a task."""

    name: str
    title: str  # for tables
    build: Callable[[Task, int], rules.Rule]  # (task, steps) -> rule
    families: tuple[str, ...] = ()  # where it makes sense; () for everywhere


# The methods that are a function of the Gram matrix, and how tables call them.
GRAM = {
    "upgrad": "UPGrad",
    "conflict_free": "ConFIG",
    "nash_mtl": "Nash-MTL",
    "mgda": "MGDA",
    "cagrad": "CAGrad",
    "fairgrad": "FairGrad",
    "aligned_mtl": "Aligned-MTL",
}
# EAGC: the default, what of it is left when a part is taken away, and the article's.
BALANCED: dict[str, tuple[str, dict[str, Any]]] = {
    "eagc": ("EAGC", {}),
    "eagc_full": ("EAGC, balance 1", {"balance": 1.0}),
    "eagc_sum": ("EAGC, balance 1 alone", {"balance": 1.0, "stiffness": 0.0}),
    # Some 0.1 of noise is left of a hundred steps, a tenth of most tasks' trainings.
    "eagc_persistent": ("EAGC, persistent conflict", {"conflict_memory": 100.0}),
    # An energy falls over the whole of most tasks' trainings.
    "eagc_release": ("EAGC, release 8", {"release": 8.0}),
    "eagc_full_persistent": (
        "EAGC, balance 1, persistent conflict",
        {"balance": 1.0, "conflict_memory": 100.0},
    ),
}
ARTICLE = "eagc_article"
DIRECT = {"gcond": "GCond", "sam_gs": "SAM-GS", "gradnorm": "GradNorm"}
# Families whose losses are positive: a method that divides by a loss fits no others.
POSITIVE = ("physics", "multitask", "continual", "language")
MEMORY = {"a_gem": "A-GEM", "gem": "GEM"}


def _chained(factory: Callable, task: Task, steps: int) -> rules.Rule:
    coordinated = optax.chain(factory(task.number), task.optimizer(steps))
    return rules.of_gradients(task, coordinated)


def _uncertainty(task: Task, steps: int) -> rules.Rule:
    method = aggregators.uncertainty_weighting(task.number)
    return rules.of_losses(task, steps, method)


def _famo(task: Task, steps: int) -> rules.Rule:
    return rules.of_losses(task, steps, aggregators.famo(task.number), look_again=True)


def _aware(factory: Callable, momentum: bool, task: Task, steps: int) -> rules.Rule:
    """A Gram method in the metric of the optimizer, of the step with ``momentum``."""
    method = factory(task.number)
    coordinated = eagc_jax.optimizer_aware(
        method, task.optimizer(steps), include_momentum=momentum
    )
    return rules.of_gradients(task, coordinated)


def _all() -> dict[str, Arm]:
    found = [
        Arm(SUM, "plain sum", rules.static),
        Arm(TUNED, "tuned static weights", rules.static),
        Arm("uncertainty", "uncertainty weighting", _uncertainty, POSITIVE),
        Arm(
            "annealing",
            "learning-rate annealing",
            functools.partial(_chained, learning_rate_annealing),
        ),
        Arm("famo", "FAMO", _famo, POSITIVE),
    ]
    of_gram = {
        name: (title, getattr(aggregators, name)) for name, title in GRAM.items()
    }
    for name, (title, options) in BALANCED.items():
        of_gram[name] = title, functools.partial(eagc_jax.eagc, **options)
    plain = {
        name: (title, getattr(aggregators, name)) for name, title in DIRECT.items()
    }
    article = functools.partial(eagc_jax.eagc, preset="article")
    plain |= {**of_gram, ARTICLE: ("EAGC, the article's gate", article)}
    for name, (title, factory) in plain.items():
        found.append(Arm(name, title, functools.partial(_chained, factory)))
    for name, title in MEMORY.items():
        build = functools.partial(_chained, getattr(aggregators, name))
        found.append(Arm(name, title, build, families=("continual",)))
    for name, (title, factory) in of_gram.items():
        metric = functools.partial(_aware, factory, False)
        step = functools.partial(_aware, factory, True)
        found.append(Arm(f"{name}-metric", f"{title}, Adam's metric", metric))
        found.append(Arm(f"{name}-step", f"{title}, the step itself", step))
    return {arm.name: arm for arm in found}


ARMS = _all()
# Arms that bring K gradients together, beside those that only weight the losses.
AGGREGATED = tuple(
    name
    for name in ARMS
    if name.partition("-")[0] in (*GRAM, *MEMORY, *BALANCED, ARTICLE, "gcond", "sam_gs")
)
# What to begin with: the sum, tuned weights and six more.
CORE = (
    *(SUM, TUNED, "uncertainty", "annealing", "upgrad", "conflict_free"),
    *("upgrad-step", "eagc", "eagc-step"),
)


def chosen(names: Sequence[str], family: str) -> list[Arm]:
    """Arms by name, "core" and "all" among the names; those that fit the family.

    Raises:
      ValueError: there is no such arm.
    """
    wanted: list[str] = []
    for name in names:
        group = {"core": CORE, "all": tuple(ARMS)}.get(name, (name,))
        wanted += [one for one in group if one not in wanted]
    for name in wanted:
        if name not in ARMS:
            raise ValueError(
                f"arms must be core, all or of {', '.join(ARMS)}; got {name!r}"
            )
    arms = [ARMS[name] for name in wanted]
    return [arm for arm in arms if not arm.families or family in arm.families]
