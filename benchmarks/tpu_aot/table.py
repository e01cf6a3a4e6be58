"""Rows beside their plain sum's: ratios, verdicts, the printed table."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.timing import print_table
from benchmarks.tpu_aot import bounds, cases

MEGA = 1e6


def judged(
    measured: Mapping[str, Mapping[str, Any]], selected: Sequence[cases.Case]
) -> list[dict[str, Any]]:
    """The rows with ratios to the plain sum's and what they have too much of.

    Args:
      measured: by name, as ``compiling.measure`` returns them.
      selected: which, in what order; a row that was not measured is left out.
    """
    found = []
    for case in selected:
        if case.name not in measured:
            continue
        row = dict(measured[case.name])
        baseline = measured.get(case.baseline.name, row)
        row["bounds"] = cases.bounds_of(case)
        row["missed"] = _missed(row, baseline)
        if "error" not in row and "error" not in baseline:
            for part in ("trace_seconds", "compile_seconds"):
                row[f"{part}_over_sum"] = row[part] / max(baseline[part], 1e-9)
        found.append(row)
    return found


def _missed(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    if "error" in baseline and "error" not in row:
        return ["the plain sum failed, so that nothing can be compared"]
    return bounds.missed(row, baseline, bounds.BOUNDS[row["bounds"]])


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints them."""
    columns = [
        "row",
        "trace, s",
        "compile, s",
        "over sum",
        "all-reduce",
        "moves",
        "temporary, MB",
        "GFLOP",
        "missed",
    ]
    print_table([_cells(row) for row in rows], dict.fromkeys(columns, "s"))


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {"row": row["row"], "missed": "; ".join(row["missed"]) or "-"}
    if "error" in row:
        return (
            dict.fromkeys(
                (
                    "trace, s",
                    "compile, s",
                    "over sum",
                    "all-reduce",
                    "moves",
                    "temporary, MB",
                    "GFLOP",
                ),
                "-",
            )
            | cells
        )
    found = row["collectives"]
    reduced = found["all-reduce"]
    return cells | {
        "trace, s": f"{row['trace_seconds']:.1f}",
        "compile, s": f"{row['compile_seconds']:.1f}",
        "over sum": f"{row.get('compile_seconds_over_sum', float('nan')):.1f}",
        "all-reduce": f"{reduced['count']} ({_bytes(reduced['bytes'])})",
        "moves": _moves(found),
        "temporary, MB": f"{row['temporary_bytes'] / MEGA:.1f}",
        "GFLOP": f"{row['flops'] / 1e9:.2f}",
    }


def _moves(found: Mapping[str, Mapping[str, int]]) -> str:
    """Every other collective: none should be there."""
    parts = [
        f"{of['count']} {kind} ({_bytes(of['bytes'])})"
        for kind, of in found.items()
        if kind != "all-reduce" and of["count"]
    ]
    return ", ".join(parts) or "0"


def _bytes(number: int) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
