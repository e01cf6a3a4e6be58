"""Decisions become labels, classes and constraints of the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from eagc_jax.gcd.decisions.bonds import some
from eagc_jax.gcd.decisions.constraints import Constraints
from eagc_jax.gcd.decisions.kinds import Decisions, Round
from eagc_jax.gcd.decisions.parts import divide
from eagc_jax.gcd.decisions.replay import Replayed, replay
from eagc_jax.gcd.runs.assignment import printable
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.sources.strings import shown


def apply(
    records: Records, decisions: Decisions, features: np.ndarray | None = None
) -> tuple[Records, Constraints]:
    """The records as a person has decided on them, and what that demands of clusters.

    - Members of a cluster that was renamed, merged or identified as a known class are
      labeled items of that class, a new known class if the name is new. Those of a split
      are labeled with the parts that k-means divides them into.
    - Labeled items keep their labels; these follow a class that is renamed, merged or
      split. A decision on an item itself weighs more than all of that.
    - Items that belong together with a labeled one are labeled. Items that don't belong
      together lose what was only said of their clusters, where that would make them
      one class; see `obey`.
    - Junk is left out.

    True classes keep their names, renamed ones get the new name; one that was split, and
    a novel one that nobody has named, counts as novel in scores.

    Args:
      records: N items.
      decisions: of a person.
      features: (N, D) floats of the items; only a split needs them.

    Returns:
      The records of the M items that are not junk; and the constraints.

    Raises:
      ValueError: items, clusters or classes are not there, or what is decided
        contradicts itself or the labels; the message names them.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> from eagc_jax.gcd.decisions.kinds import Decision
      >>> records = sources.Records(
      ...     "pairs", "embedding", sources.ArrayItems(np.eye(4, dtype=np.float32)),
      ...     ids=("a", "b", "c", "d"), labels=np.array([0, -1, -1, -1], np.int32),
      ...     class_names=("cat",), num_known=1,
      ... )
      >>> named = Decision("rename", clusters=("novel-1",), name="dog")
      >>> junk = Decision("junk", items=("d",))
      >>> one = Round("run", {"novel-1": ("b", "c")}, (named, junk))
      >>> found, constraints = apply(records, Decisions((one,)))
      >>> found.class_names, found.labels.tolist(), constraints.junk
      (('cat', 'dog'), [0, 1, 1], ('d',))
    """
    rows, decisions, missing = _located(records, decisions)
    names = records.class_names[: records.num_known]
    # Labels of items that nobody mentions follow their class, unless that is split.
    chosen = rows.values() if _splits(decisions) is None else range(len(records))
    given = {
        printable(records.ids[row]): names[records.labels[row]]
        for row in chosen
        if records.labels[row] >= 0
    }
    row_of = {**{printable(records.ids[row]): row for row in chosen}, **rows}

    def parts(items: Sequence[str], number: int) -> list[int]:
        here = np.array([row_of[item] for item in items])
        order = np.argsort(here)  # the file's order should not matter
        divided = divide(_features_of(features, here[order]), number)
        return divided[np.argsort(order)].tolist()

    found = replay(decisions, given, names, parts)
    kept = np.ones(len(records), bool)
    kept[[row_of[item] for item in found.junk if item in row_of]] = False
    new = _relabeled(records, found, row_of, kept)
    if not new.num_known:
        raise ValueError(f"the decisions leave {records.name} no labeled item")
    left = new if kept.all() else new.select(kept)
    place = np.cumsum(kept) - 1

    def rows_of(groups: Iterable[Sequence[str]]) -> tuple[np.ndarray, ...]:
        return tuple(place[[row_of[item] for item in group]] for group in groups)

    return left, Constraints(
        ids=left.ids,
        labels=left.labels,
        kept=kept,
        together=rows_of(found.groups),
        apart=rows_of(found.apart),
        junk=tuple(str(records.ids[row]) for row in np.flatnonzero(~kept).tolist()),
        new_classes=tuple(
            name
            for name in new.class_names[: new.num_known]
            if name not in names and name not in found.renamed.values()
        ),
        more_classes=found.more,
        missing=missing,
    )


def _splits(decisions: Decisions) -> str | None:
    """A cluster that is split, if there is one."""
    for one in decisions.rounds:
        for decision in one.decisions:
            if decision.action == "split":
                return decision.clusters[0]
    return None


def _located(
    records: Records, decisions: Decisions
) -> tuple[dict[str, int], Decisions, int]:
    """Rows of the items mentioned; the decisions on items that there are."""
    wanted = {
        item
        for one in decisions.rounds
        for items in (*one.clusters.values(), *(d.items for d in one.decisions))
        for item in items
    }
    rows = {}
    for row, name in enumerate(records.ids if wanted else ()):
        if (name := printable(name)) in wanted:
            rows[name] = row
    _check_items(records, decisions, rows)
    rounds, missing = [], 0
    for one in decisions.rounds:
        clusters = {
            name: tuple(item for item in items if item in rows)
            for name, items in one.clusters.items()
        }
        mentioned = {name for d in one.decisions for name in d.clusters}
        for name, items in clusters.items():
            if name in mentioned and not items:
                raise ValueError(
                    f"{records.name} has none of the items of {shown(name)}, such as "
                    f"{some(one.clusters[name], 1)}: the decisions are of other data"
                )
        missing += sum(map(len, one.clusters.values())) - sum(
            map(len, clusters.values())
        )
        rounds.append(Round(one.run, clusters, one.decisions))
    return rows, Decisions(tuple(rounds)), missing


def _check_items(records: Records, decisions: Decisions, rows: dict[str, int]) -> None:
    """All are there; junk need not be."""
    for number, one in enumerate(decisions.rounds, start=1):
        for index, decision in enumerate(one.decisions, start=1):
            unknown = [item for item in decision.items if item not in rows]
            if unknown and decision.action != "junk":
                where = f"round {number}, " if len(decisions.rounds) > 1 else ""
                raise ValueError(
                    f"{where}decision {index} ({decision.action}) names items that "
                    f"{records.name} does not have: {some(unknown)}"
                )


def _features_of(features: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    if features is None:
        raise ValueError("a split needs features of the items, features=...")
    return np.asarray(features)[rows]


def _relabeled(
    records: Records, found: Replayed, row_of: dict[str, int], kept: np.ndarray
) -> Records:
    """The same items with the classes that were decided; junk is unlabeled."""
    numbers = {name: i for i, name in enumerate(found.class_names)}
    old = records.class_names[: records.num_known]
    follows = [numbers.get(found.renamed[name] or "", -1) for name in old]
    labels = np.array([*follows, -1])[records.labels]  # -1 is the last
    for item, row in row_of.items():
        labels[row] = numbers[found.classes[item]] if item in found.classes else -1
    labels[~kept] = -1
    used = np.unique(labels[labels >= 0])
    renumbered = np.full(len(numbers) + 1, -1, np.int32)
    renumbered[used] = np.arange(len(used))
    known = [found.class_names[i] for i in used]
    # The names of true classes, and after the known ones those of novel ones.
    true_names = [found.renamed.get(name) or name for name in records.class_names]
    novel = [name for name in dict.fromkeys(true_names) if name not in known]
    names = (*known, *(novel if records.truth is not None else ()))
    index = {name: i for i, name in enumerate(names)}
    truth = records.truth
    if truth is not None:
        truth = np.array([index[name] for name in true_names], np.int32)[truth]
    return dataclasses.replace(
        records,
        labels=renumbered[labels],
        class_names=names,
        num_known=len(known),
        truth=truth,
    )
