"""The decision file: what is read, and what is refused, by name."""

import itertools
import json

import pytest

from eagc_jax.gcd.decisions import Decision, Decisions, Round, read_decisions

ROUND = Round(
    "run",
    {"novel-1": ("a", "b", "c"), "novel-2": ("d", "e"), "cat": ("f",)},
    (
        Decision("rename", ("novel-1",), name="scratch"),
        Decision("merge", ("scratch", "novel-2"), name="damage"),
        Decision("split", ("damage",), names=("damage/1", "damage/2")),
        Decision("together", items=("a", "b")),
        Decision("apart", items=("a", "f")),
        Decision("known", ("cat",), name="cat"),
        Decision("known", items=("e",), name="cat"),
        Decision("junk", items=("c",)),
    ),
)


def test_it_reads_what_it_writes(tmp_path):
    written = Decisions((ROUND, Round("next", {}, (Decision("junk", items=("d",)),))))
    written.write(tmp_path / "decisions.json")
    found = read_decisions(tmp_path / "decisions.json")
    assert found == written
    assert len(found) == 9
    plain = json.loads((tmp_path / "decisions.json").read_text())
    assert plain["run"] == "next"
    assert plain["earlier"][0]["decisions"][2] == {
        **{"action": "split", "cluster": "damage", "into": 2},
        "names": ["damage/1", "damage/2"],
    }


def file_of(*decisions, clusters=None, **more):
    clusters = (
        {"novel-1": ["a", "b"], "novel-2": ["c"]} if clusters is None else clusters
    )
    return {
        **{"written_by": "eagc_jax", "kind": "decisions", "version": 1, "run": "run"},
        **{"clusters": clusters, "decisions": list(decisions), **more},
    }


def do(action, **more):
    return {"action": action, **more}


RENAME = do("rename", cluster="novel-1", name="x")
BAD = {
    "no JSON": ("{", "can't be read as JSON"),
    "deep": ("[" * 100_000, "can't be read as JSON"),
    "a list": ([], "should hold a JSON object, found list"),
    "another kind": ({"kind": "settings"}, '"kind": "decisions"'),
    "another version": (file_of() | {"version": 7}, "it has version 7, this reads 1"),
    "an entry": (file_of(script="x"), "entries that are not known: 'script'"),
    "no list": (file_of() | {"decisions": {}}, "decisions should be a list, found {}"),
    "no objects": (file_of(3), "decision 1 should be an object, found 3"),
    "an action": (
        file_of(RENAME, do("explode")),
        "decision 2: action should be one of",
    ),
    "no action": (file_of(do(["rename"])), "found ['rename']"),
    "no cluster": (
        file_of(do("split", cluster=None, into=2)),
        "cluster should be text of 1 to 8,192 characters, found None",
    ),
    "no items": (file_of(do("junk", items=None)), "items should be a list, found None"),
    "no name": (
        file_of(do("rename", cluster="novel-1")),
        "decision 1 (rename) should have cluster, name; found 'cluster'",
    ),
    "too much": (
        file_of(do("junk", cluster="novel-1", items=["a"])),
        "decision 1 (junk) should have cluster or items; found 'cluster', 'items'",
    ),
    "a name of lines": (
        file_of(do("rename", cluster="novel-1", name="a\nb")),
        "no line breaks, no control characters and no white space around it",
    ),
    "a long name": (
        file_of(do("rename", cluster="novel-1", name="x" * 201)),
        "name should be text of 1 to 200 characters, found 'xxx",
    ),
    "half a character": (
        json.dumps(file_of(do("rename", cluster="novel-1", name="\ud800"))),
        "no control characters",
    ),
    "a class called junk": (
        file_of(do("rename", cluster="novel-1", name="junk")),
        "can't be called junk",
    ),
    "a cluster that is not there": (
        file_of(do("rename", cluster="novel-9", name="x")),
        "no members of a cluster novel-9; it has novel-1, novel-2",
    ),
    "a cluster that is gone": (
        file_of(RENAME, do("junk", cluster="novel-1")),
        "there is no cluster novel-1 any more after decision 1 (rename)",
    ),
    "a name that is taken": (
        file_of(do("rename", cluster="novel-1", name="novel-2")),
        "novel-2 is another class or cluster already; to make them one, merge them",
    ),
    "one cluster to merge": (
        file_of(do("merge", clusters=["novel-1", "novel-1"], name="x")),
        "at least 2 different entries, found 1",
    ),
    "an item twice": (
        file_of(clusters={"one": ["a"], "two": ["a"]}),
        "item 'a' should be in one cluster, found it in 'one' and in 'two'",
    ),
    "no member": (
        file_of(clusters={"one": []}),
        "cluster 'one' should have at least 1",
    ),
    "parts": (
        file_of(do("split", cluster="novel-1", into=1)),
        "into should be a whole number from 2 to 1,000, found 1",
    ),
    "names of parts": (
        file_of(do("split", cluster="novel-1", into=2, names=["x", "x"])),
        "names should be 2 different ones, found 'x', 'x'",
    ),
    "together and apart": (
        file_of(
            do("together", items=["a", "b"]),
            do("together", items=["b", "c"]),
            do("apart", items=["c", "d", "a"]),
        ),
        "decision 3 (apart): c and a were decided to belong together",
    ),
    "apart and together": (
        file_of(do("apart", items=["a", "c"]), do("together", items=["a", "c"])),
        "decision 2 (together): a and c were decided not to belong together, in "
        "decision 1 (apart)",
    ),
    "two classes of what belongs together": (
        file_of(
            do("known", items=["a"], **{"class": "cat"}),
            do("together", items=["a", "b"]),
            do("known", items=["b"], **{"class": "dog"}),
        ),
        "a and b were decided to belong together, but one is of the class cat, the other "
        "of dog",
    ),
    "one class of what doesn't": (
        file_of(
            do("apart", items=["a", "b"]),
            do("known", items=["b", "a"], **{"class": "dog"}),
        ),
        "decision 1 (apart): a and b are both of the class dog",
    ),
    "junk that belongs": (
        file_of(do("junk", items=["a"]), do("together", items=["a", "b"])),
        "decision 2 (together): a was decided to be junk",
    ),
    "an earlier round": (
        file_of(earlier=[{"clusters": {}, "decisions": [do("rename")]}]),
        "round 1, decision 1 (rename) should have cluster, name; found nothing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case, tmp_path):
    content, message = BAD[case]
    path = tmp_path / "decisions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"decisions\.json") as error:
        read_decisions(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_decisions(tmp_path / "nothing.json")


def test_a_long_chain_takes_no_time(tmp_path):
    """Strangers' files may be made to be slow."""
    items = [f"item {i}" for i in range(20_000)]
    chain = [do("together", items=list(two)) for two in itertools.pairwise(items)]
    away = [do("apart", items=[items[0], f"other {i}"]) for i in range(20_000)]
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps(file_of(*away, *chain)))
    assert len(read_decisions(path)) == 39_999


def test_what_the_data_decide_is_left_to_them(tmp_path):
    """Whether a cluster is a class, and so stays, and which of its items are labeled."""
    path = tmp_path / "decisions.json"
    path.write_text(
        json.dumps(
            file_of(
                do("junk", cluster="novel-1"),
                do("apart", items=["a", "b"]),
                do("rename", cluster="novel-1", name="x"),
            )
        )
    )
    assert len(read_decisions(path)) == 3
