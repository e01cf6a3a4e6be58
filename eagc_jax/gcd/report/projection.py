"""What the coordinator at the feature decided, step by step."""

from collections.abc import Mapping
from typing import Literal, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eagc_jax.gcd.report.figures import (
    RUN_COLORS,
    drawable,
    message_figure,
    new_figure,
)
from eagc_jax.gcd.runs.history import RunHistory

# Of a trace, what the coordinator at the feature left in it.
Part = Literal["projection_quantiles", "labeled_reference", "removed", "added"]
_SHARES: tuple[Part, ...] = ("removed", "added")


def projection_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """Projection weights, labeled reference and shares over steps, a row per run."""
    found = {name: run for name, run in runs.items() if coordinated(run)}
    if not found:
        return message_figure("No run has a coordinator at the feature.")
    figure = new_figure(9.6, 0.3 + 2.9 * len(found))
    parts = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    for part, (name, run) in zip(parts, found.items(), strict=True):
        part.suptitle(drawable(name, 40), fontweight="bold")
        weights, reference, shares = part.subplots(1, 3)
        _draw_weights(weights, over_steps(run, "projection_quantiles"))
        _draw_reference(reference, over_steps(run, "labeled_reference"))
        _draw_shares(shares, {key: over_steps(run, key) for key in _SHARES})
    return figure


def coordinated(run: RunHistory) -> bool:
    """Whether any step had a coordinator at the feature."""
    return any(np.isfinite(trace.labeled_reference).any() for trace in run.traces)


def over_steps(run: RunHistory, part: Part) -> np.ndarray:
    """(steps, ...): a part of the traces of all finished epochs."""
    return np.concatenate(
        [np.asarray(getattr(trace, part), float) for trace in run.traces]
    )


def _draw_weights(axes: Axes, quantiles: np.ndarray) -> None:
    steps = _steps(axes, quantiles)
    low, lower, middle, upper, high = quantiles.T
    color = RUN_COLORS[0]
    axes.fill_between(
        steps, low, high, color=color, alpha=0.15, lw=0, label="all images"
    )
    axes.fill_between(
        steps, lower, upper, color=color, alpha=0.4, lw=0, label="middle half"
    )
    axes.plot(steps, middle, color="black", label="median", **_line(steps))
    axes.set_title("projection weight w")
    axes.set_ylabel("share taken from the gradient")
    axes.legend(loc="upper right", fontsize=7, frameon=True, framealpha=0.8)


def _draw_reference(axes: Axes, values: np.ndarray) -> None:
    steps = _steps(axes, values)
    axes.plot(steps, values, color="black", **_line(steps))
    axes.set_title("labeled reference µ")
    axes.set_ylabel("energy inside the subspace")


def _draw_shares(axes: Axes, shares: Mapping[str, np.ndarray]) -> None:
    labels = {"removed": "removed by projection", "added": "added by alignment"}
    for color, (name, values) in zip(RUN_COLORS[1:], shares.items(), strict=False):
        steps = _steps(axes, values)
        axes.plot(steps, values, color=color, label=labels[name], **_line(steps))
    axes.set_title("change of the feature gradient")
    axes.set_ylabel("share of its norm")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", fontsize=7, frameon=True, framealpha=0.8)


def _steps(axes: Axes, values: np.ndarray) -> np.ndarray:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(axis="y")
    return np.arange(1, len(values) + 1)


class _Line(TypedDict):
    linewidth: float
    marker: str | None


def _line(steps: np.ndarray) -> _Line:
    return {"linewidth": 1.0, "marker": "o" if len(steps) == 1 else None}
