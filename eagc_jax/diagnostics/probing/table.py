"""A probe's report as a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eagc_jax.diagnostics.probing.limits import ROUNDING

if TYPE_CHECKING:
    from eagc_jax.diagnostics.probing.report import ProbeReport

_MOST_OBJECTIVES = 8  # of which all pairs are shown


def lines(found: ProbeReport) -> list[str]:
    """Of the objectives, of what the optimizer did to them, and of their pairs."""
    kept = found.finite
    number = len(found.names)
    where = "training on the plain sum" if found.trained else "at fixed parameters"
    first = (
        f"{len(kept)} steps {where}; an aggregator takes {found.work:.3g} times the work "
        f"of the sum and {as_bytes((number - 1) * found.gradient_bytes)} more memory."
    )
    if not kept.any():
        return [first]
    told = [first, "", *_objectives(found, kept)]
    if found.applied is not None:
        told += ["", *_applied(found, kept)]
    if 1 < number <= _MOST_OBJECTIVES:
        told += ["", *_pairs(found, kept)]
    return told


def percent(flags: np.ndarray | np.bool) -> str:
    """The share that is true."""
    return f"{100 * np.mean(flags):.0f} %"


def as_bytes(number: float) -> str:
    """With a unit."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _objectives(found: ProbeReport, kept: np.ndarray) -> list[str]:
    columns = ["norm", "loss", "cos(sum)", "lowest", "increased", "signal"]
    signal = found.signal
    rows = [
        [
            f"{np.median(found.norms[kept, k]):.3g}",
            f"{np.median(found.losses[kept, k]):.3g}",
            f"{found.progress[kept, k].mean():+.2f}",
            f"{found.progress[kept, k].min():+.2f}",
            percent(found.increased[kept, k]),
            f"{signal[k]:.2f}",
        ]
        for k in range(len(found.names))
    ]
    return _aligned("objective", found.names, columns, rows)


def _applied(found: ProbeReport, kept: np.ndarray) -> list[str]:
    """Shares of the steps that raised each loss: expected, truly, on the next batch."""
    applied = found.applied
    assert applied is not None
    columns = ["cos(step)", "raised", "truly", "next", "by memory"]
    rows = []
    for k in range(len(found.names)):
        later = applied.next_change[kept[1:], k]
        rows.append(
            [
                f"{applied.progress[kept, k].mean():+.2f}",
                percent(applied.raised[kept, k]),
                percent(applied.change[kept, k] > 0),
                percent(later > 0) if len(later) else "",
                percent(applied.by_memory[kept, k]),
            ]
        )
    return _aligned("as applied", found.names, columns, rows)


def _pairs(found: ProbeReport, kept: np.ndarray) -> list[str]:
    number = len(found.names)
    pairs = [(j, k) for j in range(number) for k in range(j + 1, number)]
    across = found.cosines_across[kept[1:] & kept[:-1]]
    across = (across + across.swapaxes(1, 2)) / 2
    free, low, high = found.noise_free_cosines
    columns = ["cosine", "spread", "below 0", "across", "noiseless", "from", "to"]
    metric = None if found.applied is None else found.applied.cosines[kept]
    columns += ["persists"] if metric is None else ["metric", "persists"]
    persistence = found.persistence
    rows = []
    for j, k in pairs:
        cosines = found.cosines[kept, j, k]
        row = [
            f"{cosines.mean():+.2f}",
            f"{cosines.std():.2f}",
            percent(cosines < -ROUNDING),
            f"{across[:, j, k].mean():+.2f}" if len(across) else "",
            *[_signed(one[j, k]) for one in (free, low, high)],
        ]
        row += [] if metric is None else [_signed(metric[:, j, k].mean())]
        rows.append([*row, _signed(persistence[j, k])])
    names = [f"{found.names[j]}, {found.names[k]}" for j, k in pairs]
    return _aligned("pair", names, columns, rows)


def _signed(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else "-"


def _aligned(
    head: str, names: Sequence[str], columns: list[str], rows: list[list[str]]
) -> list[str]:
    width = max([len(name) for name in names] + [len(head), 9])
    lines = zip([head, *names], [columns, *rows], strict=True)
    return [
        "  ".join([name.ljust(width), *[cell.rjust(9) for cell in cells]])
        for name, cells in lines
    ]
