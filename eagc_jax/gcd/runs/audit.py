"""What every step of a run saw and decided, as rows of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.training.measures import Measured, Trace


def step_rows(history: RunHistory) -> Iterator[JsonObject]:
    """One row per step of the finished epochs, steps counted from 1 through the run.

    Numbers are as short as float32 allows: reading one as float32 gives the very bits.

    Args:
      history: of a run; its traces may be short or empty.

    Yields:
      run, epoch, step, `loss` by objective and `gdc`, NaN where the step did not
      measure. In steps that did, `gradient_norms` (by layer and objective) and `cosines`
      (by layer), of the raw gradients. Where something was decided, `gates`, `weights` or
      `projections` by layer and objective. With a coordinator at the feature,
      `coordinator`: labeled reference, quantiles of the projection weight (minimum,
      quartiles, maximum), shares removed and added.
    """
    number = 0
    for epoch, traces in zip(history.epochs, history.traces, strict=False):
        # By epoch, not by step: a coordinator may well see a NaN.
        coordinated = not np.isnan(traces.labeled_reference).all()
        for index in range(len(traces.losses)):
            number += 1
            one = Trace(*(np.asarray(part)[index] for part in traces))
            head = {"run": history.name, "epoch": epoch, "step": number}
            yield head | _row(history, one, coordinated)


def _row(history: RunHistory, trace: Trace, coordinated: bool) -> JsonObject:
    objectives = history.objective_names
    row: JsonObject = {
        "loss": _named(objectives, trace.losses),
        "gdc": _number(trace.gradient_deviation),
    }
    if np.isfinite(trace.gradient_norms).any():
        row["gradient_norms"] = _table(
            history.parameters, objectives, trace.gradient_norms
        )
        row["cosines"] = _named(history.parameters, trace.cosines)
    if trace.gates.size:
        kind = f"{history.decision or 'gate'}s"
        row[kind] = _table(history.layers, objectives, trace.gates)
    if coordinated:
        row["coordinator"] = {
            "labeled_reference": _number(trace.labeled_reference),
            "projection_quantiles": [_number(q) for q in trace.projection_quantiles],
            "removed": _number(trace.removed),
            "added": _number(trace.added),
        }
    return row


def _table(
    layers: Sequence[str], objectives: Sequence[str], values: Measured
) -> dict[str, dict[str, float]]:
    """(K, L) values by layer, then by objective."""
    rows = [_named(objectives, column) for column in values.T]
    if len(layers) != len(rows):  # a gate per group may repeat a name
        layers = [f"layer {index}" for index in range(len(rows))]
    return dict(zip(layers, rows, strict=True))


def _named(names: Sequence[str], values: Measured) -> dict[str, float]:
    return {n: _number(v) for n, v in zip(names, values, strict=True)}


def _number(value: Measured) -> float:
    # NumPy prints the shortest decimal that float32 reads back.
    return float(str(np.float32(value)))
