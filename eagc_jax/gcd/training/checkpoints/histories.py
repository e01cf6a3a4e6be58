"""A run's history as arrays, epochs in front, and back."""

from __future__ import annotations

import jax
import numpy as np

from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.training import measures
from eagc_jax.gcd.training.recording import record_decisions
from eagc_jax.typing import OptState, PyTree

_NUMBERS = ("seconds", "step_seconds", "subspace_overlap")  # one an epoch


def to_tree(history: RunHistory) -> dict[str, PyTree]:
    """All that differs from epoch to epoch; names are the run's."""
    tree: dict[str, PyTree] = {
        "accuracy": np.array(history.accuracy, np.float64).reshape(-1, 3),
        "losses": np.array(list(history.losses.values()), np.float64).T,
    }
    tree |= {name: np.array(getattr(history, name), np.float64) for name in _NUMBERS}
    for name in ("decided", "energy"):
        if getattr(history, name):
            tree[name] = np.stack(getattr(history, name))
    if history.traces:
        tree["traces"] = jax.tree.map(lambda *x: np.stack(x), *history.traces)
    return tree


def shapes(
    history: RunHistory, opt_state: OptState, epochs: int, steps: int, *, measured: bool
) -> dict[str, PyTree]:
    """Of the tree after so many epochs of a run.

    Args:
      history: of the run.
      opt_state: any of its optimizer's.
      epochs: E.
      steps: of an epoch.
      measured: whether raw gradients are measured in some steps.
    """
    number = len(history.objective_names)
    tree: dict[str, PyTree] = {
        "accuracy": jax.ShapeDtypeStruct((epochs, 3), np.float64),
        "losses": jax.ShapeDtypeStruct((epochs, number), np.float64),
    }
    tree |= {name: jax.ShapeDtypeStruct((epochs,), np.float64) for name in _NUMBERS}
    if not epochs:
        return tree
    found = _decided(history, opt_state)
    for name in ("decided", "energy"):
        for one in getattr(found, name):
            tree[name] = jax.ShapeDtypeStruct((epochs, *one.shape), one.dtype)
    traces = trace_shapes(history, opt_state, steps, measured=measured)
    tree["traces"] = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((epochs, *x.shape), x.dtype), traces
    )
    return tree


def trace_shapes(
    history: RunHistory, opt_state: OptState, steps: int, *, measured: bool
) -> measures.Trace:
    """Of the traces of so many steps."""
    layers = [one.shape[1] for one in _decided(history, opt_state).decided]
    parameters = len(history.parameters) if measured else 0
    number = len(history.objective_names)
    return measures.shapes(steps, number, parameters, sum(layers))


def fill(history: RunHistory, tree: dict[str, PyTree], opt_state: OptState) -> None:
    """Puts all that `to_tree` took out of a history into one that has no epoch yet."""
    epochs = len(tree["accuracy"])
    history.epochs = list(range(1, epochs + 1))
    history.accuracy = [Accuracy(*row) for row in tree["accuracy"].tolist()]
    for name, column in zip(history.objective_names, tree["losses"].T, strict=True):
        history.losses[name] = column.tolist()
    for name in _NUMBERS:
        setattr(history, name, tree[name].tolist())
    if not epochs:
        return
    found = _decided(history, opt_state)
    history.decision, history.layers = found.decision, found.layers
    history.decided = list(tree.get("decided", ()))
    history.energy = list(tree.get("energy", ()))
    history.traces = [
        jax.tree.map(lambda x, e=e: x[e], tree["traces"]) for e in range(epochs)
    ]


def _decided(history: RunHistory, opt_state: OptState) -> RunHistory:
    """A history of one decision: what kind, of which layers and shapes."""
    found = RunHistory(history.name, objective_names=history.objective_names)
    record_decisions(found, opt_state)
    return found
