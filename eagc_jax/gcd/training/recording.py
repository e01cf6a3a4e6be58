"""Writes an epoch into a run's history."""

from __future__ import annotations

import jax
import numpy as np
import optax

from eagc_jax import diagnostics
from eagc_jax.gating import SoftGateState
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.training.evaluating import Evaluation
from eagc_jax.gcd.training.measures import Trace
from eagc_jax.typing import OptState


def record(
    history: RunHistory, traces: Trace, evaluation: Evaluation, opt_state: OptState
) -> None:
    """Appends what an epoch saw and decided; its number and times are the caller's."""
    traces = jax.tree.map(np.asarray, traces)
    history.accuracy.append(evaluation.accuracy)
    for k, objective in enumerate(history.objective_names):
        history.losses[objective].append(float(traces.losses[:, k].mean()))
    record_decisions(history, opt_state)
    history.subspace_overlap.append(evaluation.subspace_overlap)
    history.traces.append(traces)


def record_decisions(history: RunHistory, opt_state: OptState) -> None:
    """Appends gates, weights or projections: the first decision of the chain."""
    found = diagnostics.decisions(opt_state)
    if not found:
        return
    history.decision = found[0].kind
    history.layers = list(found[0].layers)
    history.decided.append(np.asarray(found[0].values))
    if optax.tree.get_all_with_path(opt_state, SoftGateState.__name__):
        history.energy.append(diagnostics.report(opt_state).energies)
