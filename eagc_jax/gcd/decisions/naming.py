"""Decisions for items that were not there when they were made."""

from __future__ import annotations

from collections.abc import Sequence

from eagc_jax.gcd.decisions.bonds import some
from eagc_jax.gcd.decisions.kinds import Decisions
from eagc_jax.gcd.sources.strings import shown


def names_for(
    categories: Sequence[str], decisions: Decisions, num_known: int = 0
) -> dict[str, str | None]:
    """What the categories of a run are called after the last round of decisions.

    Decisions on clusters are about items to come as well; those on single items are not,
    and a split needs the next `discover`: until then its cluster is one category.

    Args:
      categories: of the run on whose page the decisions were made.
      decisions: of which the last round counts; the run was made with the earlier ones.
      num_known: how many of the categories, the first ones, are known classes. They keep
        their labeled items, and so their name, where only the unlabeled ones are said to
        be junk or of another class.

    Returns:
      Each category's name, None where it is junk. Several may have one name.

    Raises:
      ValueError: a cluster that was decided on is none of the categories.

    Examples:
      >>> from eagc_jax.gcd.decisions.kinds import Decision, Round
      >>> named = Decision("rename", clusters=("novel-1",), name="scratch")
      >>> one = Round("run", {"novel-1": ("a.jpg",)}, (named,))
      >>> names_for(("cat", "novel-1", "novel-2"), Decisions((one,)))
      {'cat': 'cat', 'novel-1': 'scratch', 'novel-2': 'novel-2'}
    """
    names: dict[str, str | None] = {name: name for name in categories}
    if not decisions.rounds:
        return names
    last = decisions.rounds[-1]
    # What is decided on: categories by the name that they have by then.
    holds = {name: [name] for name in (*categories, *last.clusters)}
    known = set(categories[:num_known])
    for decision in last.decisions:
        if decision.action in ("known", "junk") and known.intersection(
            decision.clusters
        ):
            continue
        found = [one for name in decision.clusters for one in holds.pop(name, [])]
        if decision.action == "split":
            for part in decision.names:
                holds[part] = []
            # Still there, for what is said of it as a whole.
            holds[decision.clusters[0]] = found
            continue
        new = None if decision.action == "junk" else decision.name
        names.update(dict.fromkeys(found, new))
        if new is not None:
            holds[new] = [*holds.get(new, []), *found]
    # `eagc label` has renamed the run's categories, and noted it down.
    unknown = [
        one
        for one, new in names.items()
        if one not in categories and new not in categories
    ]
    if unknown:
        raise ValueError(
            f"the decisions are on {some(unknown)}, which are none of the categories of "
            f"this run: they were made on another one, {shown(last.run) or 'not named'}"
        )
    return {one: names[one] for one in categories}
