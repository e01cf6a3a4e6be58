"""A probe's report as a figure; Matplotlib belongs to an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    from eagc_jax.diagnostics.probing.report import ProbeReport

_LAYERS = 12  # of which the conflict is shown
_PAIRS = 6
_NAME = 28  # characters of a leaf's path


def of_report(found: ProbeReport) -> matplotlib.figure.Figure:
    """Three panels: losses that steps raise, cosines step by step, conflict by leaf."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the figure needs Matplotlib: pip install 'eagc_jax[gcd]'"
        ) from error
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    raised, cosines, layers = figure.subplots(1, 3)
    _raised(raised, found)
    _cosines(cosines, found)
    _layers(layers, found)
    return figure


def _raised(axes: matplotlib.axes.Axes, found: ProbeReport) -> None:
    kept = found.finite
    bars = {"the sum, to first order": found.increased[kept]}
    if found.applied is not None:
        bars["the step applied, to first order"] = found.applied.raised[kept]
        bars["its loss on the batch"] = found.applied.change[kept] > 0
        bars["its loss on the next"] = found.applied.next_change[kept[1:]] > 0
    place = np.arange(len(found.names))
    width = 0.8 / len(bars)
    for number, (label, flags) in enumerate(bars.items()):
        share = 100 * flags.mean(axis=0) if len(flags) else np.zeros(len(place))
        axes.bar(place + number * width, share, width, label=label)
    axes.set_xticks(place + width * (len(bars) - 1) / 2, found.names)
    axes.set(title="Steps that raise the loss", ylabel="%", ylim=(0, 100))
    axes.legend(fontsize="small")


def _cosines(axes: matplotlib.axes.Axes, found: ProbeReport) -> None:
    number = len(found.names)
    pairs = [(j, k) for j in range(number) for k in range(j + 1, number)][:_PAIRS]
    steps = np.arange(len(found.cosines))
    persistence = found.persistence
    for index, (j, k) in enumerate(pairs):
        color = f"C{index}"
        label = f"{found.names[j]}, {found.names[k]}: persists {persistence[j, k]:+.2f}"
        axes.plot(steps, found.cosines[:, j, k], color=color, label=label)
        if found.applied is not None:
            metric = found.applied.cosines[:, j, k]
            axes.plot(steps, metric, color=color, linestyle="--")
    axes.axhline(0, color="black", linewidth=0.8)
    title = "Cosines of gradients"
    if found.applied is not None:
        title += " (dashed: in the optimizer's metric)"
    axes.set(title=title, xlabel="step", ylim=(-1.05, 1.05))
    if pairs:
        axes.legend(fontsize="small")


def _layers(axes: matplotlib.axes.Axes, found: ProbeReport) -> None:
    raw = found.conflict_by_layer
    order = np.argsort(-raw, kind="stable")[:_LAYERS][::-1]
    names = [found.layers[i] for i in order]
    names = [n if len(n) <= _NAME else "..." + n[3 - _NAME :] for n in names]
    place = np.arange(len(order))
    axes.barh(place + 0.2, 100 * raw[order], 0.4, label="raw")
    if found.applied is not None:
        metric = found.applied.conflict_by_layer[order]
        axes.barh(place - 0.2, 100 * metric, 0.4, label="in the optimizer's metric")
        axes.legend(fontsize="small")
    axes.set_yticks(place, names, fontsize="small")
    axes.set(title="Where the conflict is", xlabel="% of it")
