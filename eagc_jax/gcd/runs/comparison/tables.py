"""Summaries as tables, for a page in Markdown and for a terminal."""

import math
from collections.abc import Sequence

from eagc_jax.gcd.runs.comparison.finished import MEASURES
from eagc_jax.gcd.runs.comparison.intervals import Interval, Summary

_TITLES = {
    "all": "All",
    "old": "Old",
    "new": "New",
    "gdc": "GDC",
    "soc": "SOC",
    "seconds_per_step": "ms/step",
}


def to_markdown(
    summaries: Sequence[Summary],
    control: str,
    differences: Sequence[str] = MEASURES[:3],
) -> str:
    """One Markdown table for each data set, differences that exclude zero in bold.

    Args:
      summaries: from `summarize`.
      control: the arm compared with, for the head of the columns.
      differences: the measures whose difference to the control is shown.

    Returns:
      The tables, each below a line with its data set's name.
    """
    parts = []
    for dataset, cells in _cells(summaries, control, differences, "**").items():
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        rule = ["---"] * len(escaped[0])
        lines = [f"| {' | '.join(row)} |" for row in [escaped[0], rule, *escaped[1:]]]
        parts.append("\n".join([f"**{dataset}**", "", *lines]))
    return "\n\n".join(parts) + "\n"


def to_text(
    summaries: Sequence[Summary],
    control: str,
    differences: Sequence[str] = ("all", "new"),
) -> str:
    """The same for a terminal: aligned columns, a star where zero is excluded."""
    parts = []
    for dataset, cells in _cells(summaries, control, differences, "*").items():
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        parts.append("\n".join([dataset, *lines]))
    return "\n\n".join(parts) + "\n"


def _cells(
    summaries: Sequence[Summary], control: str, differences: Sequence[str], mark: str
) -> dict[str, list[list[str]]]:
    """Head and rows of each data set's table."""
    titles = [_TITLES[measure] for measure in MEASURES]
    against = [f"{_TITLES[measure]} - {control}" for measure in differences]
    tables: dict[str, list[list[str]]] = {}
    for one in summaries:
        table = tables.setdefault(
            one.dataset, [["arm", "seeds", *titles[:3], *against, *titles[3:]]]
        )
        values = [_spread(one, measure) for measure in MEASURES]
        deltas = [
            _delta(one.difference[m], one.seeds, mark) if one.difference else ""
            for m in differences
        ]
        table.append([one.arm, str(one.seeds), *values[:3], *deltas, *values[3:]])
    return tables


def _spread(one: Summary, measure: str) -> str:
    mean, deviation = one.mean[measure], one.deviation[measure]
    if math.isnan(mean):
        return "-"
    if measure == "seconds_per_step":
        return f"{1e3 * mean:.1f}"
    return f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")


def _delta(interval: Interval, seeds: int, mark: str) -> str:
    if interval.pairs == 0:
        return "-"
    text = f"{interval.mean:+.3f}"
    if interval.pairs > 1:
        text += f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    if interval.pairs < seeds:
        text += f" ({interval.pairs} pairs)"
    if interval.excludes_zero:
        text = f"{mark}{text}{mark}" if mark == "**" else f"{text} {mark}"
    return text
