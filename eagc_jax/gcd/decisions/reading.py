"""The decision file: read within bounds, and checked before anything is done."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

from eagc_jax._files import JsonObject
from eagc_jax.gcd.decisions.kinds import (
    ACTIONS,
    VERSION,
    Action,
    Decision,
    Decisions,
    Round,
)
from eagc_jax.gcd.decisions.replay import replay
from eagc_jax.gcd.runs.reading import MEGABYTE, read_json
from eagc_jax.gcd.sources.strings import shown

_BYTES = 256 * MEGABYTE
_ROUNDS, _DECISIONS = 1_000, 100_000
_NAME, _ID = 200, 8_192  # characters
_PARTS = 1_000  # of a split
_APART = 10_000  # items of one decision
_ENTRIES = {"written_by", "kind", "version", "run", "clusters", "decisions", "earlier"}

# What an action needs besides its name; of two sets, one.
_SHAPES: Mapping[str, tuple[set[str], ...]] = {
    "rename": ({"cluster", "name"},),
    "merge": ({"clusters", "name"},),
    "split": ({"cluster", "into"}, {"cluster", "into", "names"}),
    "together": ({"items"},),
    "apart": ({"items"},),
    "known": ({"cluster", "class"}, {"items", "class"}),
    "junk": ({"cluster"}, {"items"}),
}


def read_decisions(path: str | os.PathLike[str]) -> Decisions:
    """The decisions that a page, or `eagc label`, has written.

    Whoever wrote the file, it is only data: its size is bounded, and every entry is
    checked. What contradicts itself is found here; what doesn't fit the data, by `apply`.

    Args:
      path: of the file.

    Returns:
      The decisions.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such file, or an entry is wrong, or two decisions contradict
        each other; the message names file, decision, clusters and items.

    Examples:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "decisions.json")
      >>> together = Decision("together", items=("a.jpg", "b.jpg"))
      >>> Decisions((Round("photos-run", {}, (together,)),)).write(path)
      >>> read_decisions(path).rounds[0].decisions[0].items
      ('a.jpg', 'b.jpg')
    """
    path = pathlib.Path(path)
    found = read_json(path, most=_BYTES)
    try:
        decisions = parse(found)
        replay(decisions)  # contradictions
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    return decisions


def parse(found: JsonObject) -> Decisions:
    """Decisions from the plain values of a file.

    Raises:
      ValueError: an entry is wrong; the message says which, and what it should be.

    Examples:
      >>> parse({"kind": "settings"})
      Traceback (most recent call last):
      ...
      ValueError: it should be a file of decisions, with "kind": "decisions"
    """
    if found.get("kind") != "decisions":
        raise ValueError('it should be a file of decisions, with "kind": "decisions"')
    if found.get("version") != VERSION:
        raise ValueError(
            f"it has version {_quoted(found.get('version'))}, this reads {VERSION}; save "
            "it anew from the page of this version"
        )
    _no_others(found, _ENTRIES, "the file")
    earlier = _list(found.get("earlier", []), "earlier", _ROUNDS)
    rounds = [_round(one, f"round {i}, ") for i, one in enumerate(earlier, start=1)]
    rounds.append(_round({k: v for k, v in found.items() if k in _ROUND}, ""))
    if sum(len(one.decisions) for one in rounds) > _DECISIONS:
        raise ValueError(f"it should hold at most {_DECISIONS:,} decisions")
    return Decisions(tuple(rounds))


_ROUND = ("run", "clusters", "decisions")


def _round(found: object, where: str) -> Round:
    if not isinstance(found, dict):
        raise ValueError(f"{where}should be an object, found {_quoted(found)}")
    _no_others(found, set(_ROUND), f"{where}the round")
    run = found.get("run", "")
    if not isinstance(run, str):
        raise ValueError(f"{where}run should be text, found {_quoted(run)}")
    return Round(
        run[:_ID],
        _clusters(found.get("clusters", {}), where),
        tuple(
            _decision(one, f"{where}decision {i}")
            for i, one in enumerate(
                _list(found.get("decisions", []), f"{where}decisions", _DECISIONS), 1
            )
        ),
    )


def _clusters(found: object, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(found, dict):
        raise ValueError(
            f"{where}clusters should be an object of lists of items, found "
            f"{_quoted(found)}"
        )
    clusters = {
        _text(name, f"{where}a cluster's name", _ID): _ids(
            members, f"{where}cluster {_quoted(name)}", 1
        )
        for name, members in found.items()
    }
    seen: dict[str, str] = {}
    for name, members in clusters.items():
        for one in members:
            if seen.setdefault(one, name) != name:
                raise ValueError(
                    f"{where}item {_quoted(one)} should be in one cluster, found it in "
                    f"{_quoted(seen[one])} and in {_quoted(name)}"
                )
    return clusters


def _decision(found: object, where: str) -> Decision:
    if not isinstance(found, dict):
        raise ValueError(f"{where} should be an object, found {_quoted(found)}")
    action = found.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise ValueError(
            f"{where}: action should be one of {', '.join(ACTIONS)}; found "
            f"{_quoted(action)}"
        )
    where = f"{where} ({action})"
    if set(found) - {"action"} not in _SHAPES[action]:
        choices = " or ".join(", ".join(sorted(one)) for one in _SHAPES[action])
        entries = ", ".join(_quoted(one) for one in sorted(set(found) - {"action"}))
        raise ValueError(f"{where} should have {choices}; found {entries or 'nothing'}")
    items = _items(action, found["items"], where) if "items" in found else ()
    clusters: tuple[str, ...] = ()
    if "cluster" in found:
        clusters = (_text(found["cluster"], f"{where}: cluster", _ID),)
    if action == "merge":
        clusters = _ids(found["clusters"], f"{where}: clusters", 2)
    if action == "split":
        return Decision(action, clusters, names=_parts(found, found["cluster"], where))
    if action == "known":
        name = _text(found["class"], f"{where}: class", _ID)
    else:
        name = _new_name(found["name"], where) if "name" in found else None
    return Decision(action, clusters, items, name)


def _items(action: Action, found: object, where: str) -> tuple[str, ...]:
    least = 2 if action in ("together", "apart") else 1
    items = _ids(found, f"{where}: items", least)
    if action == "apart" and len(items) > _APART:
        raise ValueError(f"{where} should have at most {_APART:,} items")
    return items


def _parts(found: JsonObject, cluster: str, where: str) -> tuple[str, ...]:
    into = found["into"]
    if not isinstance(into, int) or isinstance(into, bool) or not 2 <= into <= _PARTS:
        raise ValueError(
            f"{where}: into should be a whole number from 2 to {_PARTS:,}, found "
            f"{_quoted(into)}"
        )
    given = found.get("names")
    if given is None:
        return tuple(f"{cluster}/{i}" for i in range(1, into + 1))
    names = tuple(
        _new_name(one, where) for one in _list(given, f"{where}: names", _PARTS)
    )
    if len(set(names)) != into or len(names) != into:
        raise ValueError(
            f"{where}: names should be {into} different ones, found "
            f"{', '.join(map(_quoted, names))}"
        )
    return names


def _new_name(found: object, where: str) -> str:
    """One that can be printed, and be a folder's."""
    name = _text(found, f"{where}: name", _NAME)
    if not name.isprintable() or name != name.strip():
        raise ValueError(
            f"{where}: a name should have no line breaks, no control characters and no "
            f"white space around it, found {_quoted(name)}"
        )
    if name == "junk":
        raise ValueError(
            f"{where}: a class can't be called junk, which says that items take no "
            'part; that is {"action": "junk"}'
        )
    return name


def _ids(found: object, what: str, least: int) -> tuple[str, ...]:
    """Different texts, at least so many."""
    texts = tuple(_text(one, f"an entry of {what}", _ID) for one in _list(found, what))
    different = tuple(dict.fromkeys(texts))
    if len(different) < least:
        raise ValueError(
            f"{what} should have at least {least} different entries, found "
            f"{len(different)}"
        )
    return different


def _list(found: object, what: str, most: int | None = None) -> Sequence[object]:
    if not isinstance(found, list):
        raise ValueError(f"{what} should be a list, found {_quoted(found)}")
    if most is not None and len(found) > most:
        raise ValueError(f"{what} should have at most {most:,} entries")
    return found


def _text(found: object, what: str, most: int) -> str:
    if not isinstance(found, str) or not 0 < len(found) <= most:
        raise ValueError(
            f"{what} should be text of 1 to {most:,} characters, found {_quoted(found)}"
        )
    return found


def _no_others(found: JsonObject, known: set[str], what: str) -> None:
    others = [_quoted(name) for name in found if name not in known]
    if others:
        raise ValueError(f"{what} has entries that are not known: {', '.join(others)}")


def _quoted(value: object) -> str:
    """What was found, on one line and not longer than one."""
    text = shown(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
