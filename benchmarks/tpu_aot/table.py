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
            sums = {
                "trace_seconds": baseline["trace_seconds"],
                "compile_seconds": bounds.seconds_of_sum(row, baseline),
            }
            for part, of_sum in sums.items():
                row[f"{part}_over_sum"] = row[part] / max(of_sum, 1e-9)
        found.append(row)
    return found


def _missed(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    if "error" in baseline and "error" not in row:
        return ["the plain sum failed, so that nothing can be compared"]
    return bounds.missed(row, baseline, bounds.BOUNDS[row["bounds"]])


COLUMNS = ("trace, s", "compile, s", "over sum", "all-reduce", "moves")
COLUMNS += ("temporary, MB", "GFLOP")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints them."""
    columns = ("row", *COLUMNS, "missed")
    print_table([_cells(row) for row in rows], dict.fromkeys(columns, "s"))


def show_by_method(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints, for every method, the most that its updates cost over the plain sum's.

    Seconds to compile by placement, the most over K and dtypes; all-reduces and their
    bytes, the most over all; how many rows were measured.
    """
    found = _by_method(rows)
    if found:
        print_table(found, dict.fromkeys(found[0], "s"))


def _by_method(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    by_name = {row["row"]: row for row in rows if "error" not in row}
    measured: dict[str, list[tuple[cases.Case, Any, Any]]] = {}
    for case in cases.all_cases():
        if case.kind == "update" and {case.name, case.baseline.name} <= set(by_name):
            pair = by_name[case.name], by_name[case.baseline.name]
            measured.setdefault(case.method, []).append((case, *pair))
    return [
        _cells_of_method(method, of)
        for method, of in measured.items()
        if method != cases.SUM
    ]


def _cells_of_method(method: str, measured: Sequence[tuple]) -> dict[str, str]:
    def most(over, where=None):
        values = [
            over(row, plain)
            for case, row, plain in measured
            if where in (None, case.placement)
        ]
        return max(values, default=None)

    def reduced(part):
        def count(row):
            return row["collectives"]["all-reduce"][part]

        return most(lambda row, plain: count(row) - count(plain))

    cells = {"method": method}
    for placement in cases.PLACEMENTS:
        seconds = most(bounds.seconds_over, placement)
        cells[f"{placement}, s"] = "-" if seconds is None else f"{seconds:.1f}"
    cells["all-reduces"] = str(reduced("count"))
    cells["bytes"] = _bytes(reduced("bytes"))
    cells["rows"] = str(len(measured))
    return cells


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {"row": row["row"], "missed": "; ".join(row["missed"]) or "-"}
    if "error" in row:
        return dict.fromkeys(COLUMNS, "-") | cells
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
