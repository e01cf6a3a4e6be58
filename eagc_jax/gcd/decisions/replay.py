"""Decisions one after another: which class each item is of, and what binds items."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from eagc_jax.gcd.decisions.bonds import Bonds, some
from eagc_jax.gcd.decisions.kinds import Decision, Decisions, Round
from eagc_jax.gcd.sources.strings import shown

# The items to divide, and the number of parts; their parts, or None where features are
# not at hand.
Divide = Callable[[Sequence[str], int], Sequence[int] | None]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What all decisions together say."""

    classes: dict[str, str]  # by item, of those that have one
    class_names: tuple[str, ...]  # those given, then new ones; some may be empty
    renamed: dict[str, str | None]  # given classes: what became of them, None if split
    junk: set[str]
    more: int  # classes than before, known and novel ones; less than 0 for fewer
    groups: list[list[str]]  # items of one class, at least two in each
    apart: list[list[str]]  # items no two of which are of one class


def replay(
    decisions: Decisions,
    given: Mapping[str, str] | None = None,
    class_names: Iterable[str] | None = None,
    divide: Divide | None = None,
) -> Replayed:
    """Goes through the decisions in their order.

    Whoever names, merges or identifies a cluster has accepted its members; they are then
    of that class. What is said of an item itself weighs more than what is said of its
    cluster, and so does a label that was given with the data: a labeled item leaves its
    class by a decision on the item alone, or with the class, where that is renamed,
    merged or split.

    Args:
      decisions: all rounds.
      given: class by item, as the data have them; None before the data are known.
      class_names: the known classes of the data; None before they are known.
      divide: how a cluster is split; None before features are known.

    Returns:
      Classes and bonds.

    Raises:
      ValueError: decisions contradict each other or name what there is not.
    """
    table = _Table(given or {}, class_names, divide)
    several = len(decisions.rounds) > 1
    for number, one in enumerate(decisions.rounds, start=1):
        table.begin(one)
        for index, decision in enumerate(one.decisions, start=1):
            where = f"round {number}, " if several else ""
            where = f"{where}decision {index} ({decision.action})"
            table.obey(decision, where)
    return table.result()


class _Table:
    """Items, the class that each is of, and the clusters of the round."""

    def __init__(
        self,
        given: Mapping[str, str],
        class_names: Iterable[str] | None,
        divide: Divide | None,
    ):
        self._complete = class_names is not None  # no class but these
        self._renamed: dict[str, str | None] = {one: one for one in class_names or ()}
        self._classes = dict(self._renamed)  # in order; of new ones too
        self._class_of = dict(given)
        self._firm = set(given)  # labeled, or decided on the item itself
        self._cluster_of: dict[str, str] = {}
        self._gone: dict[str, str] = {}  # clusters, and the decision that took them
        self._junk: set[str] = set()
        self._more = 0
        self._bonds = Bonds()
        self._divide = divide

    def begin(self, one: Round) -> None:
        """Another run's clusters."""
        self._cluster_of = {
            item: name
            for name, items in one.clusters.items()
            for item in items
            if item not in self._junk
        }
        self._clusters = dict.fromkeys(one.clusters)
        self._gone = {}

    def obey(self, decision: Decision, where: str) -> None:
        """One decision."""
        for name in decision.clusters:
            self._check_cluster(name, where)
        _STEPS[decision.action](self, decision, where)

    def result(self) -> Replayed:
        """After the last decision."""
        bonds = self._bonds.without(self._junk)
        classes = bonds.settle(self._class_of, self._firm)
        names, renamed = tuple(self._classes), self._renamed
        junk, groups, apart = self._junk, bonds.groups, bonds.apart
        return Replayed(classes, names, renamed, junk, self._more, groups, apart)

    def _check_cluster(self, name: str, where: str) -> None:
        if name in self._clusters:
            return
        if name in self._gone:
            raise ValueError(
                f"{where}: there is no cluster {shown(name)} any more after "
                f"{self._gone[name]}"
            )
        raise ValueError(
            f"{where}: the file has no members of a cluster {shown(name)}; it has "
            f"{some(self._clusters) or 'none'}"
        )

    def _check_free(self, name: str, own: Iterable[str], where: str) -> None:
        """A new name must not be another one's."""
        if (name in self._classes or name in self._clusters) and name not in own:
            raise ValueError(
                f"{where}: {shown(name)} is another class or cluster already; to make "
                "them one, merge them"
            )

    def _members(self, clusters: Sequence[str]) -> list[str]:
        """Of the clusters, and labeled with classes of the same names."""
        names = set(clusters)
        found = [
            item
            for item, name in self._cluster_of.items()
            if name in names and not self._is_elsewhere(item, names)
        ]
        labeled = [item for item, name in self._class_of.items() if name in names]
        return list(dict.fromkeys((*found, *labeled)))

    def _is_elsewhere(self, item: str, names: set[str]) -> bool:
        return item in self._firm and self._class_of.get(item) not in names

    def _rename(self, decision: Decision, where: str) -> None:
        name = decision.name or ""
        self._check_free(name, decision.clusters, where)
        members = self._members(decision.clusters)
        self._replace(decision.clusters, [name], where)
        for item in members:
            self._put(item, name)

    def _split(self, decision: Decision, where: str) -> None:
        for name in decision.names:
            self._check_free(name, decision.clusters, where)
        members = self._members(decision.clusters)
        if self._complete and len(members) < len(decision.names):
            raise ValueError(
                f"{where}: {shown(decision.clusters[0])} has {len(members)} items, too "
                f"few for {len(decision.names)} parts"
            )
        parts = self._divide and self._divide(members, len(decision.names))
        self._replace(decision.clusters, decision.names, where)
        for index, item in enumerate(members):
            # The part is what the features say: nobody said it of the item.
            self._firm.discard(item)
            if parts is None:
                self._class_of.pop(item, None)
                self._cluster_of.pop(item, None)
            else:
                self._put(item, decision.names[parts[index]])

    def _replace(self, old: Sequence[str], new: Sequence[str], where: str) -> None:
        """Classes and clusters by others, in the place of the first class among them."""
        self._more += len(new) - len(old)
        was = [name for name in old if name in self._classes]
        order = list(self._classes)
        at = order.index(was[0]) if was else len(order)
        left = [name for name in order[:at] if name not in was]
        right = [name for name in order[at:] if name not in was]
        self._classes = dict.fromkeys((*left, *new, *right))
        for given, name in self._renamed.items():
            if name in old:
                self._renamed[given] = new[0] if len(new) == 1 else None
        for name in old:
            del self._clusters[name]
            self._gone[name] = where
        for name in new:
            self._clusters[name] = None
            self._gone.pop(name, None)

    def _put(self, item: str, name: str) -> None:
        self._class_of[item] = self._cluster_of[item] = name

    def _known(self, decision: Decision, where: str) -> None:
        name = decision.name or ""
        if self._complete and name not in self._classes:
            raise ValueError(
                f"{where}: there is no known class {shown(name)}; there are "
                f"{some(self._classes) or 'none'}"
            )
        self._classes.setdefault(name)
        for item in decision.items:
            self._junk.discard(item)
            self._firm.add(item)
            self._put(item, name)
        for cluster in decision.clusters:
            for item in self._followers(cluster):
                self._put(item, name)
            self._leave(cluster, name, where)
        self._clusters.setdefault(name)

    def _followers(self, cluster: str) -> list[str]:
        """Members that are not labeled."""
        return [
            item
            for item, name in self._cluster_of.items()
            if name == cluster and item not in self._firm
        ]

    def _leave(self, cluster: str, name: str | None, where: str) -> None:
        """Nothing is left of a cluster that is no class, as far as that is known."""
        if not self._complete:
            return
        if cluster != name and cluster not in self._classes:
            del self._clusters[cluster]
            self._gone[cluster] = where
            self._more -= 1

    def _throw_away(self, items: Iterable[str]) -> None:
        for item in items:
            self._junk.add(item)
            self._firm.discard(item)
            self._class_of.pop(item, None)
            self._cluster_of.pop(item, None)

    def _discard(self, decision: Decision, where: str) -> None:
        self._throw_away(decision.items)
        for cluster in decision.clusters:
            if self._complete:  # else any of them may be labeled, and stay
                self._throw_away(self._followers(cluster))
            self._leave(cluster, None, where)

    def _together(self, decision: Decision, where: str) -> None:
        self._check_no_junk(decision, where)
        self._bonds.bind(decision.items, where)

    def _apart(self, decision: Decision, where: str) -> None:
        self._check_no_junk(decision, where)
        self._bonds.part(decision.items, where)

    def _check_no_junk(self, decision: Decision, where: str) -> None:
        thrown = [item for item in decision.items if item in self._junk]
        if thrown:
            raise ValueError(
                f"{where}: {some(thrown)} was decided to be junk, which takes no part"
            )


_STEPS: dict[str, Callable[[_Table, Decision, str], None]] = {
    "rename": _Table._rename,
    "merge": _Table._rename,  # of several
    "split": _Table._split,
    "together": _Table._together,
    "apart": _Table._apart,
    "known": _Table._known,
    "junk": _Table._discard,
}
