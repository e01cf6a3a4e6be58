"""A comparison of discoveries as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from eagc_jax.gcd.runs.comparison.agreement import Division
from eagc_jax.gcd.runs.comparison.discoveries import Comparison, FoundRun, Pair
from eagc_jax.gcd.runs.comparison.paired import METHOD, PairedAccuracy
from eagc_jax.gcd.sources.strings import shown

_DIVISIONS = 10  # that are shown, of each kind
_PARTS = 5
_CHANGES = 5
_GROUP = 5  # settings that are shown one by one, where a run has none of them
_LETTERS = 40  # of a setting's value


def lines(comparison: Comparison) -> list[str]:
    """What `eagc compare` prints."""
    runs = comparison.runs
    rows = [["", *(shown(run.name) for run in runs)]]
    rows += [[name, *values] for name, values in _figures(runs)]
    text = _table(rows)
    if comparison.differing:
        differing = _collapsed(comparison.differing).items()
        text += ["", "settings that differ"]
        text += _table([[f"  {n}", *map(_value, found)] for n, found in differing])
    else:
        text += ["", "all settings are the same"]
    for pair in comparison.pairs:
        text += ["", *_pair(pair)]
    return text


def _figures(runs: Sequence[FoundRun]) -> Iterable[tuple[str, list[str]]]:
    def of(name: str) -> list[object]:
        return [run.summary.get(name) for run in runs]

    yield "items", [f"{len(run.assignment):,}" for run in runs]
    yield "labeled", [f"{(run.assignment.labels >= 0).sum():,}" for run in runs]
    yield "known classes", [str(run.assignment.num_known) for run in runs]
    yield "classes", [_number(run) for run in runs]
    yield "sizes", [_spread(run) for run in runs]
    yield "answer", [str(one or "-") for one in of("chosen")]
    for name in ("All", "Old", "New", "ARI", "NMI"):
        values = [_score(run, name.lower()) for run in runs]
        if any(value != "-" for value in values):
            yield name, values
    if any(run.rehearsal is not None for run in runs):
        yield "New, rehearsed", [_rehearsed(run) for run in runs]
    yield "seconds", [_seconds(one) for one in of("seconds")]


def _collapsed(
    differing: Mapping[str, Sequence[object]],
) -> dict[str, Sequence[object]]:
    """One row for a group of settings that a run has not at all."""
    groups: dict[str, list[str]] = {}
    for name in differing:
        groups.setdefault(name.partition(".")[0], []).append(name)
    rows: dict[str, Sequence[object]] = {}
    for group, names in groups.items():
        columns = zip(*(differing[name] for name in names), strict=True)
        absent = [all(value is None for value in column) for column in columns]
        if len(names) > _GROUP and any(absent):
            told = ["none" if one else "given" for one in absent]
            rows[f"{group} ({len(names)} settings)"] = told
        else:
            rows |= {name: differing[name] for name in names}
    return rows


def _rehearsed(run: FoundRun) -> str:
    if run.rehearsal is None:
        return "-"
    new = run.rehearsal.best.new
    return f"{new.expected:.3f} [{new.low:.3f}, {new.high:.3f}]"


def _number(run: FoundRun) -> str:
    interval = run.summary.get("num_classes_interval")
    number = str(len(run.assignment.names))
    if not isinstance(interval, list) or len(interval) != 2:
        return number
    return f"{number} (likely {interval[0]} to {interval[1]})"


def _spread(run: FoundRun) -> str:
    sizes = run.assignment.sizes
    return f"{sizes.min():,} to {sizes.max():,}, median {np.median(sizes):,.0f}"


def _score(run: FoundRun, name: str) -> str:
    value = np.nan if run.scores is None else getattr(run.scores, name)
    return "-" if np.isnan(value) else f"{value:.3f}"


def _seconds(stages: object) -> str:
    if not isinstance(stages, dict):
        return "-"
    return f"{sum(one for one in stages.values() if isinstance(one, int | float)):.1f}"


def _pair(pair: Pair) -> Iterable[str]:
    found = pair.agreement
    yield f"{shown(pair.first)} and {shown(pair.second)}"
    if any(pair.only):
        yield (
            f"  {pair.common:,} items in common; {pair.only[0]:,} and {pair.only[1]:,} "
            "are in one of them only"
        )
    share = len(found.changed) / found.items if found.items else 0.0
    yield (
        f"  {found.items:,} items that are not labeled in both: ARI {found.ari:.3f}, AMI "
        f"{found.ami:.3f}; {len(found.changed):,} ({100 * share:.1f} %) changed category"
    )
    for name, before, after in pair.changes[:_CHANGES]:
        yield f"    {shown(name)}: {shown(before)} -> {shown(after)}"
    if len(pair.changes) > _CHANGES:
        yield "    ... all are in what --json prints"
    yield from _divided(found.split, "{whole} was split into {parts}")
    yield from _divided(found.merged, "{whole} was merged out of {parts}")
    if pair.accuracy:
        yield f"  accuracy, {shown(pair.second)} less {shown(pair.first)}:"
        for name, one in pair.accuracy.items():
            yield f"    {name}: {_difference(one)}"
        yield f"    (95 % intervals: {METHOD})"


def _divided(found: Sequence[Division], form: str) -> Iterable[str]:
    for one in found[:_DIVISIONS]:
        parts = [f"{shown(name)} ({number:,})" for name, number in one.parts[:_PARTS]]
        more = len(one.parts) - _PARTS
        if more > 0:
            parts.append(f"{more} more")
        whole = f"{shown(one.whole)} ({one.items:,})"
        yield "  " + form.format(whole=whole, parts=", ".join(parts))
    if len(found) > _DIVISIONS:
        yield f"  ... and {len(found) - _DIVISIONS} more"


def _difference(one: PairedAccuracy) -> str:
    if np.isnan(one.difference):
        return "no items"
    return (
        f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}], {one.better:,} "
        f"better, {one.worse:,} worse, p = {one.p_value:.2g}"
    )


def _value(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _LETTERS else f"...{text[3 - _LETTERS :]}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
