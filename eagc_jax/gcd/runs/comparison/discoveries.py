"""Discoveries of the same data beside each other, from their runs' folders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.evaluation.accuracy import correct_samples
from eagc_jax.gcd.evaluation.rehearsal import Rehearsal
from eagc_jax.gcd.evaluation.scores import Scores, score
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.runs.comparison.agreement import Agreement, agree
from eagc_jax.gcd.runs.comparison.paired import METHOD, PairedAccuracy, paired_accuracy
from eagc_jax.gcd.runs.folder import SUMMARY_FILE
from eagc_jax.gcd.runs.reading import member, read_json
from eagc_jax.gcd.runs.reopening import reopen
from eagc_jax.gcd.settings.plain import to_plain
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.sources.strings import shown

_PROBED = 64  # items whose content is compared


@dataclasses.dataclass(frozen=True)
class FoundRun:
    """What a comparison needs of a run."""

    name: str
    settings: JsonObject  # plain values by dotted name
    summary: JsonObject
    records: Records
    assignment: Assignment
    scores: Scores | None  # None where the true classes are not known
    rehearsal: Rehearsal | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
    """The first run and another one, on the items of both."""

    first: str
    second: str
    common: int  # items that both runs have
    only: tuple[int, int]  # items that only the one has, only the other
    # On the items that have not a label in both runs.
    agreement: Agreement
    changes: tuple[
        tuple[str, str, str], ...
    ]  # id, category in the first, in the second
    # All, Old and New of the items without a label in either run; empty where the true
    # classes are not known.
    accuracy: dict[str, PairedAccuracy]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two or more runs; each of them against the first."""

    runs: tuple[FoundRun, ...]
    # settings that are not all the same, by name
    differing: dict[str, tuple[object, ...]]
    pairs: tuple[Pair, ...]


def read_run(folder: str | os.PathLike[str]) -> FoundRun:
    """A run, from its folder and its data.

    Raises:
      ValueError, OSError: as `reopen`.
    """
    found = reopen(folder, features=False)
    return FoundRun(
        name=str(folder),
        settings=_flat(to_plain(found.settings)),
        summary=read_json(member(folder, SUMMARY_FILE)),
        records=found.records,
        assignment=found.assignment,
        scores=score(found.records, found.assignment.clusters),
        rehearsal=found.rehearsal,
    )


def compare(runs: Sequence[FoundRun]) -> Comparison:
    """Compares runs of the same data.

    Args:
      runs: two or more. Items are the same where their ids are.

    Returns:
      The comparison; each run but the first is compared with the first.

    Raises:
      ValueError: there is only one run, or they are of different data: no item has the
        same id, or most items of the same id are not the same.
    """
    if len(runs) < 2:
        raise ValueError("two runs or more are needed to compare them")
    pairs = tuple(_pair(runs[0], other) for other in runs[1:])
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values: dict[str, tuple[object, ...]] = {
        name: tuple(run.settings.get(name) for run in runs) for name in names
    }
    differing = {n: found for n, found in values.items() if _differ(found)}
    return Comparison(tuple(runs), differing, pairs)


def plain(comparison: Comparison) -> JsonObject:
    """The comparison as plain values for JSON; NaN becomes None."""
    return {
        "runs": [
            {
                "name": run.name,
                "summary": run.summary,
                "sizes": dict(_sizes(run.assignment)),
                "rehearsal": None
                if run.rehearsal is None
                else run.rehearsal.to_plain(),
                "scores": None if run.scores is None else _plain(run.scores._asdict()),
            }
            for run in comparison.runs
        ],
        "differing_settings": comparison.differing,
        "pairs": [_plain_pair(pair) for pair in comparison.pairs],
        "interval": METHOD,
    }


def _plain_pair(pair: Pair) -> JsonObject:
    found = pair.agreement
    return {
        "first": pair.first,
        "second": pair.second,
        "common_items": pair.common,
        "items_of_one_only": pair.only,
        "compared_items": found.items,
        **_plain({"ari": found.ari, "ami": found.ami}),
        "changed": [
            {"id": name, "first": before, "second": after}
            for name, before, after in pair.changes
        ],
        "split": [one._asdict() for one in found.split],
        "merged": [one._asdict() for one in found.merged],
        "accuracy": {n: _plain(one._asdict()) for n, one in pair.accuracy.items()},
    }


def _plain(values: Mapping[str, float]) -> JsonObject:
    return {name: one if np.isfinite(one) else None for name, one in values.items()}


def _pair(first: FoundRun, second: FoundRun) -> Pair:
    a, b = _common_rows(first, second)
    if not len(a):
        raise ValueError(f"{_both(first, second)} have no item in common. {_ADVICE}")
    _check_content(first, second, a, b)
    labeled_in = [
        np.asarray(run.assignment.labels)[rows] >= 0
        for run, rows in ((first, a), (second, b))
    ]
    compared = ~(labeled_in[0] & labeled_in[1])
    part_a = first.assignment.select(a[compared])
    part_b = second.assignment.select(b[compared])
    agreement = agree(part_a, part_b)
    unlabeled = ~(labeled_in[0] | labeled_in[1])
    return Pair(
        first.name,
        second.name,
        len(a),
        (len(first.assignment) - len(a), len(second.assignment) - len(b)),
        agreement,
        tuple(_change(part_a, part_b, row) for row in agreement.changed.tolist()),
        _accuracy(first, second, a[unlabeled], b[unlabeled]),
    )


def _change(first: Assignment, second: Assignment, row: int) -> tuple[str, str, str]:
    before, after = (one.names[int(one.clusters[row])] for one in (first, second))
    return first.ids[row], before, after


_ADVICE = "Only runs of the same data can be compared"


def _both(first: FoundRun, second: FoundRun) -> str:
    places = [
        f"{shown(run.name)} (of {shown(run.settings.get('source.data'))})"
        for run in (first, second)
    ]
    return " and ".join(places)


def _common_rows(first: FoundRun, second: FoundRun) -> tuple[np.ndarray, np.ndarray]:
    row_of = {name: row for row, name in enumerate(second.assignment.ids)}
    pairs = [
        (row, row_of[name])
        for row, name in enumerate(first.assignment.ids)
        if name in row_of
    ]
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _check_content(first: FoundRun, second: FoundRun, a: np.ndarray, b: np.ndarray):
    """Row numbers are the same in any two tables: so the items themselves are asked."""
    chosen = np.unique(np.linspace(0, len(a) - 1, _PROBED).astype(int))
    differ = sum(
        _digest(first.records, int(a[one])) != _digest(second.records, int(b[one]))
        for one in chosen
    )
    if 2 * differ > len(chosen):
        raise ValueError(
            f"{_both(first, second)} are of different data: of {len(chosen)} items with "
            f"the same id, {differ} are not the same item. {_ADVICE}"
        )


def _digest(records: Records, row: int) -> bytes | None:
    try:
        return records.items.digest(row)
    except BadItem:
        return None


def _accuracy(
    first: FoundRun, second: FoundRun, a: np.ndarray, b: np.ndarray
) -> dict[str, PairedAccuracy]:
    knows, rows = (first, a) if first.records.truth is not None else (second, b)
    if knows.records.truth is None or not len(rows):
        return {}
    truth, old = knows.records.truth[rows], knows.records.old_mask[rows]
    right = [
        correct_samples(truth, np.asarray(run.assignment.clusters)[chosen])
        for run, chosen in ((first, a), (second, b))
    ]
    parts = {"All": np.ones(len(rows), bool), "Old": old, "New": ~old}
    return {
        name: paired_accuracy(right[0][mask], right[1][mask])
        for name, mask in parts.items()
    }


def _sizes(assignment: Assignment) -> list[tuple[str, int]]:
    return [
        (printable(name), int(size))
        for name, size in zip(assignment.names, assignment.sizes, strict=True)
    ]


def _flat(values: object, name: str = "") -> JsonObject:
    if not isinstance(values, dict):
        return {name: values}
    found: JsonObject = {}
    for key, value in values.items():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found


def _differ(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values[1:])
