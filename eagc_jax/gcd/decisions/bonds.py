"""Items that belong together and items that don't, and which classes that leaves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from eagc_jax.gcd.sources.strings import shown


def some(names: Iterable[str], most: int = 3) -> str:
    """A few names for a message.

    Examples:
      >>> some(["a", "b", "c", "d"])
      'a, b, c, ...'
    """
    first = [shown(name) for name in itertools.islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


class Bonds:
    """Groups of items of one class, and sets of items no two of which are of one.

    Examples:
      >>> bonds = Bonds()
      >>> bonds.bind(["a", "b"], "decision 1 (together)")
      >>> bonds.bind(["b", "c"], "decision 2 (together)")
      >>> bonds.part(["a", "c"], "decision 3 (apart)")
      Traceback (most recent call last):
      ...
      ValueError: decision 3 (apart): a and c were decided to belong together
    """

    def __init__(self):
        # By item: its group's list, the same object for all of them.
        self._group: dict[str, list[str]] = {}
        # By the identity of a group's list: of each set, which of its items is in it.
        self._member: dict[int, dict[int, str]] = {}
        self._sets: list[tuple[tuple[str, ...], str]] = []  # and where they were said

    def bind(self, items: Sequence[str], where: str) -> None:
        """They are of one class.

        Raises:
          ValueError: two of them are not, as was said before.
        """
        for item in items[1:]:
            small, large = sorted(map(self._of, (items[0], item)), key=len)
            if small is large:
                continue
            ours, theirs = self._member[id(large)], self._member.pop(id(small))
            for number in sorted(theirs.keys() & ours.keys()):
                one, other = sorted((ours[number], theirs[number]))
                raise ValueError(
                    f"{where}: {shown(one)} and {shown(other)} were decided not to "
                    f"belong together, in {self._sets[number][1]}"
                )
            ours.update(theirs)
            large.extend(small)
            self._group.update(dict.fromkeys(small, large))

    def part(self, items: Sequence[str], where: str) -> None:
        """No two of them are of one class.

        Raises:
          ValueError: two of them are, as was said before.
        """
        number = len(self._sets)
        self._sets.append((tuple(items), where))
        for item in items:
            members = self._member[id(self._of(item))]
            other = members.setdefault(number, item)
            if other != item:
                raise ValueError(
                    f"{where}: {shown(other)} and {shown(item)} were decided to belong "
                    "together"
                )

    def without(self, items: set[str]) -> Bonds:
        """The bonds among the others."""
        left = Bonds()
        for group in self.groups:
            left.bind([one for one in group if one not in items], "")
        for same, where in self._sets:
            left.part([one for one in same if one not in items], where)
        return left

    @property
    def groups(self) -> list[list[str]]:
        """At least two items in each."""
        groups = {id(one): one for one in self._group.values()}
        return [one for one in groups.values() if len(one) > 1]

    @property
    def apart(self) -> list[list[str]]:
        """As they were said, of at least two items."""
        return [list(items) for items, _ in self._sets if len(items) > 1]

    def settle(self, classes: Mapping[str, str], firm: set[str]) -> dict[str, str]:
        """The classes that items keep, or get, under the bonds.

        A group is of the class of its firm items; without one, of the class that those of
        its items are of that have one. Where these differ, or where two items that don't
        belong together would be of one class, what was only said of their clusters gives
        way: those that are not firm are free, but for one where nobody would be left in
        the class.

        Args:
          classes: by item, of those that have one.
          firm: items whose class was given, or decided on the item itself.

        Returns:
          Classes by item.

        Raises:
          ValueError: firm items contradict a bond; the message names two of them.

        Examples:
          >>> bonds = Bonds()
          >>> bonds.bind(["a", "b"], "")
          >>> bonds.part(["b", "c"], "")
          >>> found = bonds.settle({"a": "dent", "c": "dent", "d": "dent"}, {"a"})
          >>> sorted(found.items())
          [('a', 'dent'), ('b', 'dent'), ('d', 'dent')]
        """
        found, firm = dict(classes), set(firm)
        for group in self.groups:
            _settle_group(group, found, firm)
        freed = [
            pair
            for items, where in self._sets
            for pair in self._settle_set(items, where, found, firm)
        ]
        left = set(found.values())
        for item, name in freed:
            if name not in left:
                left.add(name)
                found.update(dict.fromkeys(self._of(item), name))
        return found

    def _settle_set(
        self, items: Sequence[str], where: str, found: dict[str, str], firm: set[str]
    ) -> list[tuple[str, str]]:
        """Frees those of one class that are not firm; says which, of which class."""
        by_class: dict[str, list[str]] = {}
        for item in items:
            if item in found:
                by_class.setdefault(found[item], []).append(item)
        freed = []
        for name, same in by_class.items():
            certain = [item for item in same if item in firm]
            if len(certain) > 1:
                raise ValueError(
                    f"{where}: {shown(certain[0])} and {shown(certain[1])} are both of "
                    f"the class {shown(name)}; say of one which class it is of"
                )
            loose = [item for item in same if item not in firm]
            for item in loose if len(same) > 1 else ():
                freed.append((item, name))
                for one in self._of(item):
                    found.pop(one, None)
        return freed

    def _of(self, item: str) -> list[str]:
        """The group, of the item alone to begin with."""
        if item not in self._group:
            self._group[item] = [item]
            self._member[id(self._group[item])] = {}
        return self._group[item]


def _settle_group(group: list[str], found: dict[str, str], firm: set[str]) -> None:
    certain = [item for item in group if item in firm and item in found]
    for item in certain[1:]:
        if found[item] != found[certain[0]]:
            raise ValueError(
                f"{shown(certain[0])} and {shown(item)} were decided to belong together, "
                f"but one is of the class {shown(found[certain[0]])}, the other of "
                f"{shown(found[item])}"
            )
    names = {found[item] for item in certain or group if item in found}
    for item in group:
        found.pop(item, None)
    if len(names) == 1:
        found.update(dict.fromkeys(group, names.pop()))
        firm.update(group if certain else ())
