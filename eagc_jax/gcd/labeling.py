"""A name for a cluster of a run that is finished, in all of its files."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import NamedTuple

from eagc_jax.gcd.decisions import Decisions, Round, read_decisions
from eagc_jax.gcd.decisions.reading import parse
from eagc_jax.gcd.decisions.replay import replay
from eagc_jax.gcd.prediction import load_predictor
from eagc_jax.gcd.report.explorer.renaming import renamed_page
from eagc_jax.gcd.runs import folder as run_folder
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.runs.discovery import DECISIONS_FILE, PAGE_FILE
from eagc_jax.gcd.sources.strings import shown

_MODEL_FILE = "model.json"


class Labeled(NamedTuple):
    """What was named."""

    number: int  # of the cluster
    before: str  # its name
    name: str
    items: int
    files: tuple[str, ...]  # of the run's folder, that were written anew


def label(run: str | os.PathLike[str], cluster: int | str, name: str) -> Labeled:
    """Names a cluster in a run's assignment, model and page, and notes it down.

    What `predict`, `export` and the page call the cluster changes at once. It is also
    appended to the run's decisions.json, with the cluster's members, so that the next
    `discover --decisions RUN/decisions.json` takes the members as labeled items of that
    class. The files are written aside and then moved to their places, one after another.

    Args:
      run: the run's folder.
      cluster: its name; or its number, as the column `cluster` of assignment.csv has it.
      name: the new one.

    Returns:
      What was named, and where.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: there is no such cluster, or nobody is in it; the name is another one's
        or can't be one; or a file of the run is damaged.
      OSError: a file can't be written, or another process uses the run.

    Examples:
      `label("tickets-run", 7, "card stolen")`
    """
    folder = pathlib.Path(run)
    assignment = Assignment.read(folder)
    number = _number(assignment, cluster, folder)
    before = assignment.names[number]
    decided = _with_rename(folder, assignment, number, name)
    names = tuple(
        name if k == number else one for k, one in enumerate(assignment.names)
    )
    with run_folder.in_use(folder), run_folder.whole(folder) as partial:
        dataclasses.replace(assignment, names=names).write(partial)
        decided.write(partial / DECISIONS_FILE)
        if (folder / _MODEL_FILE).is_file():
            load_predictor(folder).with_names({number: name}).save(partial)
        page = renamed_page(folder / PAGE_FILE, names, number, decided)
        if page is not None:
            (partial / PAGE_FILE).write_bytes(page)
        files = tuple(sorted(file.name for file in partial.iterdir()))
    size = int(assignment.sizes[number])
    return Labeled(number, before, name, size, files)


def _number(assignment: Assignment, cluster: int | str, folder: pathlib.Path) -> int:
    """By name, else by number."""
    wanted = str(cluster)
    if wanted in assignment.names:
        return assignment.names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(assignment.names):
        return int(wanted)
    raise ValueError(
        f"{shown(folder)} has no cluster {shown(wanted)}: give a name, such as "
        f"{shown(assignment.names[-1])}, or a number from 0 to "
        f"{len(assignment.names) - 1}, as the column cluster of assignment.csv has it"
    )


def _with_rename(
    folder: pathlib.Path, assignment: Assignment, number: int, name: str
) -> Decisions:
    """The run's decisions, and this one."""
    before = assignment.names[number]
    members = [
        printable(str(assignment.ids[row]))
        for row in (assignment.clusters == number).nonzero()[0].tolist()
    ]
    if not members:
        raise ValueError(f"nobody is in {shown(before)}: there is nothing to name")
    if name in assignment.names and name != before:
        raise ValueError(
            f"{shown(name)} is another category of {shown(folder)}; to make two of them "
            "one, merge them on its page"
        )
    rename = {"action": "rename", "cluster": printable(before), "name": name}
    # Checked as a file would be.
    last: Round = parse(
        {
            "kind": "decisions",
            "version": 1,
            "run": printable(folder.name),
            "clusters": {printable(before): members},
            "decisions": [rename],
        }
    ).rounds[-1]
    there = folder / DECISIONS_FILE
    earlier = read_decisions(there) if there.is_file() else Decisions()
    decided = earlier.then(last)
    replay(decided)
    return decided
