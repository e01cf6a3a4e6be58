"""Decisions applied to records, and obeyed by a clustering: exactly."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagc_jax.gcd import clustering, sources
from eagc_jax.gcd.decisions import (
    Decision,
    Decisions,
    Round,
    apply,
    least_clusters,
    names_for,
    obey,
)
from eagc_jax.gcd.decisions.coloring import Impossible, cheapest

IDS = tuple("abcdefghijklmnop")
FEATURES = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
# a, b are labeled cat; e, f are dog; the others are not labeled.
LABELS = np.array([0, 0, -1, -1, 1, 1, *[-1] * 10], np.int32)
CLUSTERS = {
    **{"cat": tuple("abcd"), "dog": tuple("efgh")},
    **{"novel-1": tuple("ijklm"), "novel-2": tuple("nop")},
}


def records(**changes):
    return dataclasses.replace(
        sources.Records(
            "letters",
            "embedding",
            sources.ArrayItems(FEATURES),
            ids=IDS,
            labels=LABELS,
            class_names=("cat", "dog"),
            num_known=2,
        ),
        **changes,
    )


def decided(*decisions, **more):
    found = Decisions((Round("run", CLUSTERS, decisions),))
    return apply(records(**more), found, FEATURES)


def classes_of(found):
    """By item: the class, "" for none."""
    names = (*found.class_names, "")
    return {i: names[one] for i, one in zip(found.ids, found.labels, strict=True)}


def those(found, name):
    return "".join(item for item, one in classes_of(found).items() if one == name)


def test_who_names_a_cluster_accepts_its_members():
    found, constraints = decided(Decision("rename", ("novel-1",), name="bird"))
    assert found.class_names == ("cat", "dog", "bird")
    assert those(found, "bird") == "ijklm"
    assert (those(found, "cat"), those(found, "dog")) == ("ab", "ef")
    assert constraints.new_classes == ("bird",)
    assert constraints.labels is found.labels


def test_a_known_class_is_renamed_with_its_labels():
    found, constraints = decided(Decision("rename", ("cat",), name="feline"))
    assert found.class_names == ("feline", "dog")
    assert those(found, "feline") == "abcd"
    assert constraints.new_classes == ()


def test_merging_makes_one_class():
    found, _ = decided(Decision("merge", ("novel-1", "cat", "dog"), name="pet"))
    assert found.class_names == ("pet",)
    assert those(found, "pet") == "abcdefghijklm"


def test_identifying_leaves_labeled_items_where_they_are():
    found, _ = decided(Decision("known", ("novel-2",), name="cat"))
    assert those(found, "cat") == "abnop"
    found, _ = decided(Decision("known", ("cat",), name="dog"))
    assert (those(found, "cat"), those(found, "dog")) == ("ab", "cdef")
    found, _ = decided(Decision("known", ("cat",), name="cat"))
    assert those(found, "cat") == "abcd"


def test_a_decision_on_an_item_weighs_more():
    first = Decision("known", items=("i", "a"), name="dog")
    for order in (1, -1):
        rename = Decision("rename", ("novel-1",), name="bird")
        found, _ = decided(*[first, rename][::order])
        assert (those(found, "bird"), those(found, "dog")) == ("jklm", "aefi")
    again = Decision("known", items=("i",), name="cat")
    found, _ = decided(first, again)
    assert (those(found, "cat"), those(found, "dog")) == ("bi", "aef")


def test_junk_takes_no_part():
    found, constraints = decided(
        Decision("junk", ("cat",)),
        Decision("junk", items=("e", "not there any more")),
        Decision("junk", ("novel-2",)),
        Decision("known", items=("n",), name="cat"),
    )
    assert constraints.junk == ("c", "d", "e", "o", "p")
    assert "".join(found.ids) == "abfghijklmn"
    assert found.items[2].tolist() == FEATURES[5].tolist()
    assert constraints.kept.sum() == 11
    assert (those(found, "cat"), those(found, "dog")) == ("abn", "f")


def test_a_class_without_labeled_items_is_not_known_any_more():
    found, _ = decided(Decision("junk", items=("e", "f")))
    assert found.class_names == ("cat",)
    with pytest.raises(ValueError, match="leave letters no labeled item"):
        decided(Decision("junk", items=tuple("abef")))


def test_a_split_is_by_the_features():
    far = FEATURES.copy()
    far[8:11], far[11:13] = [1.0, 0.1, 0.0], [0.0, 0.1, 1.0]
    split = Decisions(
        (Round("r", CLUSTERS, (Decision("split", ("novel-1",), names=("x", "y")),)),)
    )
    found, _ = apply(records(), split, far)
    assert (those(found, "x"), those(found, "y")) == ("ijk", "lm")
    with pytest.raises(ValueError, match="needs features"):
        apply(records(), split)
    found, _ = decided(Decision("split", ("cat",), names=("cat/1", "cat/2")))
    assert found.class_names == ("cat/1", "cat/2", "dog")
    assert len(those(found, "cat/1") + those(found, "cat/2")) == 4
    with pytest.raises(ValueError, match="novel-2 has 3 items, too few for 4 parts"):
        decided(Decision("split", ("novel-2",), names=tuple("wxyz")))


def test_equal_features_are_divided_too():
    same = np.ones((16, 3), np.float32)
    one = Decision("split", ("novel-1",), names=("x", "y", "z"))
    found, _ = apply(records(), Decisions((Round("r", CLUSTERS, (one,)),)), same)
    assert all(those(found, name) for name in "xyz")


def test_what_belongs_together_shares_a_class():
    found, constraints = decided(
        Decision("rename", ("novel-1",), name="bird"),
        Decision("together", items=("i", "n")),  # n is not labeled
        Decision("together", items=("a", "j")),  # a is labeled cat
        Decision("together", items=("o", "p")),
    )
    assert (those(found, "bird"), those(found, "cat")) == ("iklmn", "abj")
    assert sorted(map(len, constraints.together)) == [2, 2, 2]
    two_names = (
        Decision("rename", ("novel-1",), name="bird"),
        Decision("rename", ("novel-2",), name="fish"),
        Decision("together", items=("i", "n")),
    )
    found, _ = decided(*two_names)
    assert (those(found, "bird"), those(found, "fish")) == ("jklm", "op")
    with pytest.raises(
        ValueError, match="a and e were decided to belong together, but"
    ):
        decided(Decision("together", items=("a", "e")))


def test_what_does_not_belong_together_shares_none():
    bird = Decision("rename", ("novel-1",), name="bird")
    found, _ = decided(bird, Decision("apart", items=("i", "j")))
    assert those(found, "bird") == "klm"
    found, _ = decided(bird, Decision("apart", items=tuple("ijklm")))
    assert those(found, "bird") == "i"  # else nobody would be left in it
    known = Decision("known", items=("i",), name="cat")
    with pytest.raises(ValueError, match="decision 2 \\(apart\\): a and i are both of"):
        decided(known, Decision("apart", items=("a", "i")))


def test_rounds_go_on_from_each_other():
    first = Round("one", CLUSTERS, (Decision("rename", ("novel-1",), name="bird"),))
    second = Round(
        "two",
        {"bird": tuple("ijklmn"), "novel-1": tuple("cop")},
        (
            Decision("rename", ("bird",), name="wren"),
            Decision("rename", ("novel-1",), name="fish"),
        ),
    )
    found, constraints = apply(records(), Decisions((first, second)))
    assert (those(found, "wren"), those(found, "fish")) == ("ijklmn", "cop")
    assert constraints.new_classes == ("wren", "fish")


@pytest.mark.parametrize(
    ("decision", "more"),
    [
        (Decision("rename", ("novel-1",), name="x"), 0),
        (Decision("merge", ("novel-1", "novel-2", "cat"), name="x"), -2),
        (Decision("split", ("novel-1",), names=("x", "y", "z")), 2),
        (Decision("known", ("novel-1",), name="cat"), -1),
        (Decision("known", ("cat",), name="dog"), 0),  # it keeps its labeled items
        (Decision("junk", ("novel-1",)), -1),
        (Decision("known", items=("i",), name="cat"), 0),
    ],
)
def test_how_many_more_classes_there_are(decision, more):
    _, constraints = decided(decision)
    assert constraints.more_classes == more


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="letters does not have: x, y"):
        decided(Decision("together", items=("a", "x", "y")))
    with pytest.raises(ValueError, match="no known class fox; there are cat, dog"):
        decided(Decision("known", ("novel-1",), name="fox"))
    with pytest.raises(ValueError, match="dog is another class or cluster already"):
        decided(Decision("rename", ("novel-1",), name="dog"))
    other = Round("run", {"novel-1": ("x",)}, (Decision("junk", ("novel-1",)),))
    with pytest.raises(ValueError, match="the decisions are of other data"):
        apply(records(), Decisions((other,)))
    some = Round("run", {"novel-1": ("x", "i")}, (Decision("junk", ("novel-1",)),))
    found, constraints = apply(records(), Decisions((some,)))
    assert (constraints.junk, constraints.missing, len(found)) == (("i",), 1, 15)


def test_true_classes_are_renumbered():
    names = ("cat", "dog", "bird", "fish")
    truth = np.array([0] * 4 + [1] * 4 + [2] * 5 + [3] * 3, np.int32)
    found, _ = decided(
        Decision("rename", ("novel-2",), name="fish"),
        Decision("rename", ("cat",), name="feline"),
        Decision("junk", items=("d",)),
        class_names=names,
        truth=truth,
    )
    assert found.class_names == ("feline", "dog", "fish", "bird")
    assert found.num_known == 3
    assert [found.class_names[one] for one in found.truth] == (
        ["feline"] * 3 + ["dog"] * 4 + ["bird"] * 5 + ["fish"] * 3
    )


def test_nothing_decided_changes_nothing():
    found, constraints = apply(records(), Decisions())
    assert found.ids == IDS
    np.testing.assert_array_equal(found.labels, LABELS)
    clusters = np.arange(16) % 3
    clusters[LABELS >= 0] = LABELS[LABELS >= 0]
    np.testing.assert_array_equal(
        obey(constraints, FEATURES, clusters, np.eye(3)), clusters
    )


def test_too_few_clusters_are_an_error():
    found, constraints = decided(Decision("apart", items=("c", "i", "n")))
    assert least_clusters(constraints) == 3
    with pytest.raises(ValueError, match=r"2 clusters are too few .* such as c, i, n"):
        obey(constraints, FEATURES, np.zeros(16, int), np.eye(3)[:2])
    clusters = obey(constraints, FEATURES, np.zeros(16, int), np.eye(3))
    assert len({clusters[2], clusters[8], clusters[13]}) == 3
    del found


# Any decisions that don't contradict each other: all hold in the end.

clusters_of = st.sampled_from(sorted(CLUSTERS))
items_of = st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True)
several = st.lists(st.sampled_from(IDS), min_size=2, max_size=4, unique=True)
names = st.sampled_from(["x", "y", "cat", "dog"])


def decision(action, clusters=(), items=(), **more):
    return Decision(action, tuple(clusters), tuple(items), **more)


some_decisions = st.one_of(
    st.builds(lambda c, n: decision("rename", [c], name=n), clusters_of, names),
    st.builds(
        lambda c, n: decision("merge", c, name=n),
        st.lists(clusters_of, min_size=2, max_size=2, unique=True),
        names,
    ),
    st.builds(
        lambda c: decision("split", [c], names=(f"{c}/1", f"{c}/2")), clusters_of
    ),
    st.builds(lambda i: decision("together", items=i), several),
    st.builds(lambda i: decision("apart", items=i), several),
    st.builds(lambda c, n: decision("known", [c], name=n), clusters_of, names),
    st.builds(lambda i, n: decision("known", items=i, name=n), items_of, names),
    st.builds(lambda c: decision("junk", [c]), clusters_of),
    st.builds(lambda i: decision("junk", items=i), items_of),
)


def valid(decisions):
    """Those that can be added to the ones before."""
    left = []
    for one in decisions:
        try:
            decided(*left, one)
        except ValueError:
            continue
        left.append(one)
    return left


def expected(item, decisions):
    """What is said of one item: the names it may have, or "junk", or None for any."""
    label = int(LABELS[IDS.index(item)])
    name = next(n for n, members in CLUSTERS.items() if item in members)
    said, firm = {name} if label >= 0 else None, label >= 0
    at = {name}  # a split leaves it open which
    for one in decisions:
        hit = bool(at & set(one.clusters))
        if item in one.items and one.action in ("known", "junk"):
            firm = one.action == "known"
            at = said = {one.name} if firm else {"junk"}
        elif hit and one.action in ("rename", "merge"):
            at = (at - set(one.clusters)) | {one.name}
            said = at
        elif hit and one.action == "split":
            at = (at - set(one.clusters)) | set(one.names)
            said, firm = at, False
        elif hit and one.action == "known" and not firm:
            at = said = {one.name}
        elif hit and one.action == "junk" and not firm:
            at = said = {"junk"}
    return said, firm


@given(st.lists(some_decisions, min_size=1, max_size=8), st.integers(0, 2**16))
def test_every_decision_holds(decisions, seed):
    decisions = valid(decisions)
    found, constraints = decided(*decisions)
    generator = np.random.default_rng(seed)
    number = max(least_clusters(constraints), found.num_known + 1)
    clusters = obey(
        constraints,
        FEATURES[constraints.kept],
        generator.integers(0, number, len(found)),
        generator.normal(size=(number, 3)),
    )
    names = (*found.class_names, *(f"new {i}" for i in range(number)))
    final = dict(zip(found.ids, (names[one] for one in clusters), strict=True))
    bound = {
        item
        for one in decisions
        if one.action in ("together", "apart")
        for item in one.items
    }
    for one in decisions:
        left = [final[item] for item in one.items if item in final]
        if one.action == "together":
            assert len(set(left)) <= 1
        if one.action == "apart":
            assert len(set(left)) == len(left)
    for item in IDS:
        said, firm = expected(item, decisions)
        assert (item in constraints.junk) == (said == {"junk"})
        if said and said != {"junk"} and (firm or item not in bound):
            assert final[item] in said


@given(st.lists(some_decisions, min_size=1, max_size=8))
def test_parts_and_names_all_have_items(decisions):
    found, _ = decided(*valid(decisions))
    assert set(found.labels.tolist()) - {-1} == set(range(found.num_known))
    assert len(set(found.class_names)) == len(found.class_names)


def test_after_kmeans_every_decision_holds():
    found, constraints = decided(
        Decision("rename", ("novel-1",), name="bird"),
        Decision("together", items=("c", "n")),
        Decision("apart", items=("n", "o", "p")),
        Decision("junk", items=("d",)),
    )
    features = FEATURES[constraints.kept]
    made = clustering.semi_supervised_kmeans(
        jax.random.key(0), features, 5, found.labels, found.labeled_mask
    )
    clusters = obey(constraints, features, made.assignments, made.centres)
    final = dict(zip(found.ids, clusters.tolist(), strict=True))
    assert final["c"] == final["n"]
    assert len({final["n"], final["o"], final["p"]}) == 3
    assert {final[item] for item in "ijklm"} == {found.class_names.index("bird")}
    moved = {
        i
        for i, a, b in zip(found.ids, clusters, made.assignments, strict=True)
        if a != b
    }
    assert moved <= set("cnop")


def test_names_for_items_to_come():
    decisions = Decisions(
        (
            Round("other", {"novel-2": ("z",)}, (Decision("junk", ("novel-2",)),)),
            Round(
                "run",
                CLUSTERS,
                (
                    Decision("rename", ("novel-1",), name="bird"),
                    Decision("merge", ("bird", "dog"), name="pet"),
                    Decision("junk", ("novel-2",)),
                    Decision("known", items=("a",), name="pet"),
                    Decision("junk", ("cat",)),
                ),
            ),
        )
    )
    found = names_for(("cat", "dog", "novel-1", "novel-2", "novel-3"), decisions, 2)
    assert found == {
        **{"cat": "cat", "dog": "pet", "novel-1": "pet", "novel-2": None},
        "novel-3": "novel-3",
    }
    with pytest.raises(
        ValueError, match=r"on novel-1, novel-2, which are none of .* another"
    ):
        names_for(("cat", "dog"), decisions, 2)
    # `eagc label` has renamed the categories themselves.
    named = Round("run", CLUSTERS, (Decision("rename", ("novel-1",), name="bird"),))
    after = names_for(("cat", "dog", "bird"), Decisions((named,)), 2)
    assert after == {name: name for name in ("cat", "dog", "bird")}


def test_the_choice_is_the_cheapest():
    generator = np.random.default_rng(0)
    for trial in range(60):
        units, number = 5, 3
        costs = generator.normal(size=(units, number))
        foes = [set() for _ in range(units)]
        for one, other in itertools.combinations(range(units), 2):
            if generator.random() < 0.1 * (1 + trial % 9):
                foes[one].add(other)
                foes[other].add(one)
        fixed = [int(generator.integers(-3, number)) for _ in range(units)]
        fixed = [max(one, -1) for one in fixed]
        if any(fixed[a] == fixed[b] >= 0 for a in range(units) for b in foes[a]):
            continue
        fits = [
            choice
            for choice in itertools.product(range(number), repeat=units)
            if all(f in (-1, c) for f, c in zip(fixed, choice, strict=True))
            and all(choice[a] != choice[b] for a in range(units) for b in foes[a])
        ]
        if not fits:
            with pytest.raises(Impossible):
                cheapest(costs, fixed, foes)
            continue
        free = [unit for unit in range(units) if fixed[unit] < 0]
        best = min(sum(costs[u, c[u]] for u in free) for c in fits)
        chosen = cheapest(costs, fixed, foes)
        assert tuple(chosen) in fits
        assert sum(costs[u, chosen[u]] for u in free) == pytest.approx(best)
