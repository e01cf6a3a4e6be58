"""What a person decided on a page: rounds of decisions, each on what one run found."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Literal, get_args

from eagc_jax import _files
from eagc_jax._files import JsonObject

Action = Literal["rename", "merge", "split", "together", "apart", "known", "junk"]
ACTIONS: tuple[Action, ...] = get_args(Action)
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Decision:
    """One decision, on clusters by their names or on items by their ids.

    - `rename`: the cluster is the class `name`.
    - `merge`: the clusters are one class, `name`.
    - `split`: the cluster is `len(names)` classes of these names.
    - `together`, `apart`: the items are of one class; no two of them are.
    - `known`: the cluster, or the items, are of the class `name`, which there is.
    - `junk`: the cluster, or the items, take no part.

    Examples:
      >>> Decision("rename", clusters=("novel-3",), name="scratch").plain()
      {'action': 'rename', 'cluster': 'novel-3', 'name': 'scratch'}
    """

    action: Action
    clusters: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    name: str | None = None
    names: tuple[str, ...] = ()

    def plain(self) -> JsonObject:
        """As the file has it."""
        found: JsonObject = {"action": self.action}
        if self.action == "merge":
            found["clusters"] = list(self.clusters)
        elif self.clusters:
            found["cluster"] = self.clusters[0]
        if self.items:
            found["items"] = list(self.items)
        if self.action == "split":
            found |= {"into": len(self.names), "names": list(self.names)}
        if self.name is not None:
            found["class" if self.action == "known" else "name"] = self.name
        return found


@dataclasses.dataclass(frozen=True)
class Round:
    """Decisions on what one run had found.

    A next run numbers its clusters anew, so a cluster is told by the members it had.
    """

    run: str  # what the run is called, for people
    clusters: Mapping[str, tuple[str, ...]]  # members by name, of clusters mentioned
    decisions: tuple[Decision, ...]

    def plain(self) -> JsonObject:
        """As the file has it."""
        return {
            "run": self.run,
            "clusters": {name: list(ids) for name, ids in self.clusters.items()},
            "decisions": [one.plain() for one in self.decisions],
        }


@dataclasses.dataclass(frozen=True)
class Decisions:
    """All rounds, the earliest first: each run was made with those before it.

    Examples:
      >>> rename = Decision("rename", clusters=("novel-1",), name="scratch")
      >>> one = Decisions((Round("run", {"novel-1": ("a", "b")}, (rename,)),))
      >>> len(one), one.plain()["clusters"]
      (1, {'novel-1': ['a', 'b']})
    """

    rounds: tuple[Round, ...] = ()

    def __len__(self) -> int:
        """How many decisions there are, in all rounds."""
        return sum(len(one.decisions) for one in self.rounds)

    def then(self, last: Round) -> Decisions:
        """With one more round."""
        return Decisions((*self.rounds, last))

    def plain(self) -> JsonObject:
        """As the file has it: the last round, and before it the earlier ones."""
        *earlier, last = self.rounds or (Round("", {}, ()),)
        found = {"written_by": "eagc_jax", "kind": "decisions", "version": VERSION}
        found |= last.plain()
        return found | {"earlier": [one.plain() for one in earlier]}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all.

        Raises:
          OSError: it can't be written.
        """
        _files.write_text(path, json.dumps(self.plain(), indent=1) + "\n")
