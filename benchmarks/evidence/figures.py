"""The figures: paired differences with their intervals, a panel a task."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.evidence.arms import ARMS, TUNED

if TYPE_CHECKING:
    from benchmarks.evidence.report import TaskTable

ACROSS = 3  # panels side by side
# Two controls, told apart by colour and by shape.
_CONTROLS = {
    "to_sum": ("#1f5fa8", "o", "to the plain sum", 0.12),
    "to_tuned": ("#c4561c", "D", "to tuned weights", -0.12),
}


def draw(tables: Sequence[TaskTable], path: pathlib.Path) -> bool:
    """One panel a task; False, and nothing written, where there is nothing to compare."""
    shown = [t for t in tables if any(_points(t, c) for c in _CONTROLS)]
    if not shown:
        return False
    rows = max(len(table.arms) for table in shown)
    wide = min(len(shown), ACROSS)
    high = -(-len(shown) // wide)
    size = (3.2 * wide + 1.6, (0.25 * rows + 0.9) * high + 0.4)
    # The same bytes from the same rows: no date, no random identifiers.
    with mpl.rc_context({"svg.hashsalt": "evidence", "font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(high, wide, squeeze=False).ravel()
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        for panel, table in zip(panels, shown, strict=False):
            _panel(panel, table)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return True


def _panel(panel, table: TaskTable) -> None:
    names = [arm.name for arm in table.arms]
    for control, (color, marker, label, shift) in _CONTROLS.items():
        points = _points(table, control)
        if not points:
            continue
        places, means, lows, highs = zip(*points, strict=True)
        panel.errorbar(
            means,
            [-(place - shift) for place in places],
            xerr=[lows, highs],
            fmt=marker,
            color=color,
            markersize=4,
            linewidth=1,
            label=label,
        )
    panel.axvline(0, color="0.6", linewidth=0.8)
    panel.set_yticks(
        [-place for place in range(len(names))], [ARMS[name].title for name in names]
    )
    if TUNED in names:
        panel.get_yticklabels()[names.index(TUNED)].set_color(_CONTROLS["to_tuned"][0])
    panel.set_title(table.task)
    panel.set_xlabel("log error ratio: left of 0 is better")
    panel.spines[["top", "right"]].set_visible(False)


def _points(table: TaskTable, control: str) -> list[tuple[int, float, float, float]]:
    """Place, mean, and how far the interval goes down and up."""
    found = []
    for place, arm in enumerate(table.arms):
        one = getattr(arm, control)
        if one is not None and math.isfinite(one.difference.mean):
            mean, low, high, _ = one.difference
            ends = (mean - low, high - mean) if math.isfinite(low) else (0.0, 0.0)
            found.append((place, mean, *ends))
    return found
