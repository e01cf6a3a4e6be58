"""Lines over epochs: accuracy, losses, and how entangled the objectives are."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.report.figures import drawable, message_figure, new_figure, run_style
from eagc_jax.gcd.runs.history import RunHistory

GROUPS = {
    "all": "All images",
    "old": "Old (known classes)",
    "new": "New (novel classes)",
}


def accuracy_figure(
    runs: Mapping[str, RunHistory], baselines: Mapping[str, Accuracy]
) -> Figure:
    """All, Old and New over epochs, a panel each, a line for every run.

    Args:
      runs: the runs by name.
      baselines: figures without a history, drawn as horizontal lines.
    """
    if not any(run.epochs for run in runs.values()):
        return message_figure("No epoch was finished: there is no accuracy to plot.")
    figure = new_figure(9.6, 3.6)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (group, title) in zip(panels, GROUPS.items(), strict=True):
        for index, (name, run) in enumerate(runs.items()):
            percent = [100 * getattr(a, group) for a in run.accuracy]
            _line(axes, index, name, run.epochs, percent)
        _baselines(axes, baselines, group)
        axes.set_title(title)
        _epoch_axis(axes)
    panels[0].set_ylabel("accuracy (%)")
    _legend_above(figure, panels[0])
    return figure


def losses_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """The mean loss of each objective over epochs, a panel each."""
    objectives = list(dict.fromkeys(k for run in runs.values() for k in run.losses))
    if not objectives:
        return message_figure("No loss was recorded.")
    columns = min(3, len(objectives))
    rows = -(-len(objectives) // columns)
    figure = new_figure(max(3.2 * columns, 6.4), 0.4 + 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, objective in zip(panels, objectives, strict=False):
        for index, (name, run) in enumerate(runs.items()):
            _line(axes, index, name, run.epochs, run.losses.get(objective, []))
        axes.set_title(drawable(objective, 32))
        axes.set_ylabel("mean loss (nats)")
        _epoch_axis(axes)
    for axes in panels[len(objectives) :]:
        axes.set_visible(False)
    _legend_above(figure, panels[0])
    return figure


def entanglement_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """GDC and SOC over epochs, a panel each, a line for every run."""
    panels_of = {
        "GDC (gradient deviation)": {n: r.gradient_deviation for n, r in runs.items()},
        "SOC (subspace overlap)": {n: r.subspace_overlap for n, r in runs.items()},
    }
    if not any(np.isfinite(v).any() for p in panels_of.values() for v in p.values()):
        return message_figure("No run measured gradients or features.")
    figure = new_figure(9.6, 3.6)
    panels = figure.subplots(1, 2)
    for axes, (title, values) in zip(panels, panels_of.items(), strict=True):
        for index, (name, run) in enumerate(runs.items()):
            _line(axes, index, name, run.epochs, values[name])
        axes.set_title(title)
        _epoch_axis(axes)
    panels[0].set_ylabel("1 - cosine of supervised and sum")
    panels[1].set_ylabel("share of novel images' variance")
    _legend_above(figure, panels[0])
    return figure


def _line(
    axes: Axes, index: int, name: str, epochs: list[int], values: Sequence[float]
) -> None:
    # An interrupted run may have finished one list and not the other; an epoch that
    # was not evaluated has no point, and the line goes on to the next.
    count = min(len(epochs), len(values))
    known = [i for i in range(count) if np.isfinite(values[i])]
    style = run_style(index, len(known))
    x, y = [epochs[i] for i in known], [values[i] for i in known]
    axes.plot(x, y, label=drawable(name), **style)


def _baselines(axes: Axes, baselines: Mapping[str, Accuracy], group: str) -> None:
    for style, (name, accuracy) in zip(
        ("--", ":", "-."), baselines.items(), strict=False
    ):
        height = 100 * getattr(accuracy, group)
        if np.isfinite(height):
            label = drawable(f"{name} (before training)", 40)
            axes.axhline(height, color="#555555", lw=1.3, ls=style, label=label)


def _epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(
        MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )
    axes.grid(axis="y")
    axes.margins(y=0.12)


def _legend_above(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
