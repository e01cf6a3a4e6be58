"""The figures: paired differences with their intervals, a panel a task."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.evidence.arms import ARMS, TUNED
from eagc_jax.gcd.runs.comparison.intervals import Interval

if TYPE_CHECKING:
    from benchmarks.evidence.report import TaskTable

ACROSS = 3  # panels side by side


class Series(NamedTuple):
    """How one kind of point looks: told apart by colour and by shape."""

    label: str
    color: str
    marker: str
    shift: float  # up, of a line's height


class Panel(NamedTuple):
    """One plot: a line for each name, a point with an interval for each series."""

    title: str
    names: list[str]
    # By series: place of the name, mean, how far the interval goes down and up.
    points: dict[str, list[tuple[int, float, float, float]]]
    coloured: dict[int, str]  # names by place


_CONTROLS = {
    "to_sum": Series("to the plain sum", "#1f5fa8", "o", 0.12),
    "to_tuned": Series("to tuned weights", "#c4561c", "D", -0.12),
}


def draw(tables: Sequence[TaskTable], path: pathlib.Path) -> bool:
    """One panel a task; False, and nothing written, where there is nothing to compare."""
    panels = [_of_task(table) for table in tables]
    label = "log error ratio: left of 0 is better"
    return draw_panels(panels, _CONTROLS, label, path)


def draw_panels(
    panels: Sequence[Panel], series: dict[str, Series], label: str, path: pathlib.Path
) -> bool:
    """The same of any panels, ``label`` below each; those without points are left out."""
    shown = [panel for panel in panels if any(panel.points.values())]
    if not shown:
        return False
    rows = max(len(panel.names) for panel in shown)
    wide = min(len(shown), ACROSS)
    high = -(-len(shown) // wide)
    size = (3.2 * wide + 1.6, (0.25 * rows + 0.9) * high + 0.4)
    # The same bytes from the same rows: no date, no random identifiers.
    with mpl.rc_context({"svg.hashsalt": "evidence", "font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        for one in axes[len(shown) :]:
            one.set_axis_off()
        for one, panel in zip(axes, shown, strict=False):
            _plot(one, panel, series)
            one.set_xlabel(label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return True


def _plot(axes, panel: Panel, series: dict[str, Series]) -> None:
    for name, look in series.items():
        points = panel.points.get(name)
        if not points:
            continue
        places, means, lows, highs = zip(*points, strict=True)
        axes.errorbar(
            means,
            [-(place - look.shift) for place in places],
            xerr=[lows, highs],
            fmt=look.marker,
            color=look.color,
            markersize=4,
            linewidth=1,
            label=look.label,
        )
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks([-place for place in range(len(panel.names))], panel.names)
    for place, color in panel.coloured.items():
        axes.get_yticklabels()[place].set_color(color)
    axes.set_title(panel.title)
    axes.spines[["top", "right"]].set_visible(False)


def _of_task(table: TaskTable) -> Panel:
    arms = [arm.name for arm in table.arms]
    points = {
        control: [
            point_of(place, one.difference)
            for place, arm in enumerate(table.arms)
            if (one := getattr(arm, control)) is not None
            and math.isfinite(one.difference.mean)
        ]
        for control in _CONTROLS
    }
    tuned = _CONTROLS["to_tuned"].color
    coloured = {arms.index(TUNED): tuned} if TUNED in arms else {}
    return Panel(table.task, [ARMS[name].title for name in arms], points, coloured)


def point_of(place: int, interval: Interval) -> tuple[int, float, float, float]:
    """Of a panel; no ends where the interval has none."""
    mean, low, high, _ = interval
    ends = (mean - low, high - mean) if math.isfinite(low) else (0.0, 0.0)
    return place, mean, *ends
