"""Category discovery's part of the page: runs of ``benchmarks.discovery``."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence

from benchmarks.discovery import CONTROL, FIRST, arms
from benchmarks.evidence.figures import Panel, Series, draw_panels, point_of
from eagc_jax.gcd.runs.comparison import finished, intervals, tables
from eagc_jax.gcd.runs.comparison.finished import FinishedRun
from eagc_jax.gcd.runs.comparison.intervals import Summary

FIGURE = "discovery.svg"
_MEASURES = {
    "all": Series("all classes", "#1f5fa8", "o", 0.12),
    "new": Series("novel classes", "#c4561c", "D", -0.12),
}
_HOW = """\

## Discovery

SimGCD on features, a residual adapter, twenty epochs: accuracy on unlabeled rows, higher
is better, as `python -m benchmarks.discovery` prints it
([{file}]({file})). The control, "{control}", is the plain sum. Differences are paired by
seed, with Student's 95 % interval, **bold** where it excludes zero; no correction for how
many arms there are. *ms/step* is of a machine that did other work, too.

{commands}
"""


def beside(table: pathlib.Path) -> pathlib.Path:
    """Where discovery's runs lie that go with a table of runs."""
    return table.with_name(f"{table.stem}_discovery.csv")


def section(table: pathlib.Path, folder: pathlib.Path) -> Iterator[str]:
    """The page's lines, and a figure in ``folder``; none without runs.

    Args:
      table: of the page; discovery's lies beside it.
      folder: of figures, beside the page.
    """
    path = beside(table)
    runs = finished.read_runs(path)
    if not runs:
        return
    order = [FIRST, *arms()]
    runs = sorted(runs, key=lambda run: order.index(run.arm))
    summaries = intervals.summarize(runs, CONTROL)
    yield _HOW.format(
        file=path.name, control=CONTROL, commands="\n".join(_commands(runs, path))
    )
    label = "accuracy, less the plain sum's: right of 0 is better"
    if draw_panels(_panels(summaries), _MEASURES, label, folder / FIGURE):
        yield f"![discovery]({folder.name}/{FIGURE})\n"
    yield tables.to_markdown(summaries, CONTROL)


def _commands(runs: Sequence[FinishedRun], path: pathlib.Path) -> Iterator[str]:
    for dataset in dict.fromkeys(run.dataset for run in runs):
        mine = [run for run in runs if run.dataset == dataset]
        seeds = [run.seed for run in mine]
        names = " ".join(f'"{arm}"' for arm in dict.fromkeys(run.arm for run in mine))
        yield (
            f"    python -m benchmarks.discovery {dataset}:FOLDER --arms {names} "
            f"--seeds {max(seeds) - min(seeds) + 1} --first-seed {min(seeds)} "
            f"--output {path}"
        )


def _panels(summaries: Sequence[Summary]) -> list[Panel]:
    found = []
    for dataset in dict.fromkeys(one.dataset for one in summaries):
        mine = [s for s in summaries if s.dataset == dataset and s.arm != CONTROL]
        points = {
            measure: [
                point_of(place, one.difference[measure])
                for place, one in enumerate(mine)
                if math.isfinite(one.difference[measure].mean)
            ]
            for measure in _MEASURES
        }
        found.append(Panel(dataset, [one.arm for one in mine], points, {}))
    return found
