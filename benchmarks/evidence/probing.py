"""What a probe of the first 2 % of steps says of a task: a line of a table a seed."""

from __future__ import annotations

import csv
import itertools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.removal import removal
from benchmarks.evidence.task import Draw, Task
from eagc_jax import diagnostics
from eagc_jax.diagnostics import ProbeReport

# Beside the rules, what one number alone might tell. Larger is held to speak for an
# aggregator, or smaller: that is learned from the other tasks.
STATISTICS = (
    *("raised", "memory", "opposed", "cosine", "imbalance", "signal", "across"),
    *("persistent", "removal"),
)


class Probed(NamedTuple):
    """A probe of one seed's first steps."""

    family: str
    task: str
    seed: int
    steps: int  # that were measured
    worth_a_run: int  # 1: the probe says that an aggregator may beat the sum
    kind: str  # the verdict's family of methods
    raised: float  # share of applied steps that raise a loss to first order
    memory: float  # of these losses, the share that momentum alone raised
    opposed: float  # median of the best worst cosine, in the optimizer's metric
    cosine: float  # mean of the lowest cosine of a pair in that metric
    imbalance: (
        float  # log10 of the median ratio of the longest to the shortest gradient
    )
    signal: float  # the least mean cosine of an objective's gradients of two batches
    across: float  # the least mean cosine of a gradient with the next batch's sum
    # Of the pair that opposes most: minus its mean cosine in the optimizer's metric over
    # its mean size; 1 for a conflict in every step, 0 for one that comes and goes.
    persistent: float
    removal: float  # what taking conflicts away gains on draws kept back


_TYPES = (str, str, int, int, int, str, *[float] * 9)


def probe(task: Task, seed: int) -> Probed:
    """Probes the first 2 % of the plain sum's training, as any user's is probed.

    The starts, batches and learning rates are those of the arms with this seed.
    """
    start, batches = jax.random.split(jax.random.key(seed))
    params = jax.jit(task.init)(start, task.data)
    found = diagnostics.probe(
        task.losses,
        params,
        _draws(task, batches),
        optimizer=task.optimizer(task.steps),
        run_steps=task.steps,
        names=task.objectives,
    )
    steps = len(found.losses)
    removed = removal(task, seed, steps)
    return Probed(task.family, task.name, seed, steps, *_numbers(found), removed)


def _draws(task: Task, key: jax.Array) -> Iterator[Draw]:
    for step in itertools.count():
        at_step, number = jax.random.fold_in(key, step), jnp.asarray(step, jnp.int32)
        yield Draw(task.data, at_step, number, number / task.steps)


def _numbers(found: ProbeReport) -> Iterator[float | str]:
    applied, kept = found.applied, found.finite
    assert applied is not None
    verdict = found.verdict
    yield int(verdict.worth_a_run)
    yield verdict.family
    raised = applied.raised[kept]
    yield _mean(raised.any(axis=1))
    yield float(applied.by_memory[kept].sum() / max(raised.sum(), 1))
    yield _median(applied.attainable[kept])
    first, second = np.triu_indices(len(found.names), 1)
    yield _mean(applied.cosines[kept][:, first, second].min(axis=1, initial=1))
    yield math.log10(max(_median(found.norm_ratio[kept]), 1.0))
    yield float(np.min(found.signal))
    yield float(np.min(_mean_over_steps(found.progress_across)))
    yield float(np.max(found.persistence[first, second], initial=-1))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan


def _mean_over_steps(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values).all(axis=1)]
    return finite.mean(axis=0) if len(finite) else np.full(values.shape[1:], np.nan)


def beside(table: pathlib.Path) -> pathlib.Path:
    """Where the probes lie that go with a table of runs."""
    return table.with_name(f"{table.stem}_probes.csv")


def read(path: pathlib.Path) -> list[Probed]:
    """All probes of a file; none where there is no file.

    Raises:
      ValueError: the file is no such table.
    """
    if not path.exists():
        return []
    lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    if not lines or tuple(lines[0]) != Probed._fields:
        raise ValueError(f"{path} should begin with {','.join(Probed._fields)}")
    found = []
    for number, cells in enumerate(lines[1:], start=2):
        try:
            values = [kind(c) for kind, c in zip(_TYPES, cells, strict=True)]
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        found.append(Probed._make(values))
    return found


def write(path: pathlib.Path, probes: Sequence[Probed]) -> None:
    """The whole table: it is small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Probed._fields)
        for one in probes:
            writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in one])
