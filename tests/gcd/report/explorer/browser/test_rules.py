"""What the page shows of decisions is what the next run makes of them."""

import json

import numpy as np
import pytest

from eagc_jax.gcd.decisions import Decisions, Round, apply
from eagc_jax.gcd.decisions.reading import parse
from eagc_jax.gcd.decisions.replay import replay
from eagc_jax.gcd.report.explorer.page import _static
from tests.gcd.report.explorer import found

pytestmark = pytest.mark.browser

# Of every list of decisions: each is added if the page takes it.
_TAKE = """([base, lists]) => lists.map((list) => {
  const taken = [];
  const refused = [];
  for (const one of list) {
    try {
      replay(base, [...taken, one]);
      taken.push(one);
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      refused.push([taken.length, one]);
    }
  }
  const { clusterOf, accepted, firm } = replay(base, taken);
  return { taken, refused, clusterOf, accepted, firm };
})"""


@pytest.fixture(scope="module")
def rules(chromium):
    """The page's own rules, in an empty page."""
    page = chromium.new_page()
    source = f"{_static('dom.js')}\n{_static('decisions.js')}"
    page.add_script_tag(
        content=f"{source}\nwindow.replay = replay; window.Wrong = Wrong;"
    )
    yield page
    page.close()


def some_decisions(generator, discovery, number=7):
    names, ids = list(discovery.assignment.names), list(discovery.records.ids)[:18]

    def pick(values, most=1):
        size = int(generator.integers(1, most + 1))
        return [str(x) for x in generator.choice(values, size, replace=False)]

    made = []
    for _ in range(number):
        action = str(generator.choice(list("rmstakj")))
        [cluster], [name] = pick(names), pick([*names[:3], "x", "y"])
        several = pick(ids, 3)
        if action == "r":
            made.append({"action": "rename", "cluster": cluster, "name": name})
        elif action == "m":
            two = [str(x) for x in generator.choice(names, 2, replace=False)]
            made.append({"action": "merge", "clusters": two, "name": name})
        elif action == "s":
            parts = [f"{cluster}/1", f"{cluster}/2"]
            made.append(
                {"action": "split", "cluster": cluster, "into": 2, "names": parts}
            )
        elif action in "ta" and len(several) > 1:
            which = {"t": "together", "a": "apart"}[action]
            made.append({"action": which, "items": several})
        elif action in "kj":
            known = {"action": "known", "class": name}
            made.append(
                (known if action == "k" else {"action": "junk"})
                | (
                    {"cluster": cluster}
                    if generator.random() < 0.5
                    else {"items": several}
                )
            )
    return made


def as_round(discovery, decisions):
    assignment = discovery.assignment
    clusters = {
        name: [assignment.ids[row] for row in np.flatnonzero(assignment.clusters == k)]
        for k, name in enumerate(assignment.names)
    }
    plain = {"kind": "decisions", "version": 1, "run": "run", "clusters": clusters}
    [last] = parse(plain | {"decisions": decisions}).rounds
    assert isinstance(last, Round)
    return Decisions((last,))


def test_the_page_and_the_next_run_agree(rules):
    discovery = found.discovery(size=36)
    assignment = discovery.assignment
    generator = np.random.default_rng(0)
    lists = [some_decisions(generator, discovery) for _ in range(300)]
    base = {
        "ids": list(assignment.ids),
        "clusters": assignment.clusters.tolist(),
        "labels": assignment.labels.tolist(),
        "names": list(assignment.names),
        "numKnown": assignment.num_known,
        "named": [],
        "hidden": [0] * 6,
        "hiddenLabeled": [0] * 6,
    }
    answers = rules.evaluate(_TAKE, [base, lists])
    assert sum(len(one["taken"]) for one in answers) > 500
    assert sum(len(one["refused"]) for one in answers) > 100
    for answer in answers:
        taken = answer["taken"]
        decisions = as_round(discovery, taken)
        replay(decisions)  # nothing of it would be refused as a file
        records, constraints = apply(discovery.records, decisions, discovery.features)
        names = (*records.class_names, None)
        label = dict(zip(records.ids, (names[i] for i in records.labels), strict=True))
        bound = {i for one in taken for i in one.get("items", ())}
        for item, name in enumerate(assignment.ids):
            shown = answer["clusterOf"][item]
            assert (shown is None) == (name in constraints.junk), json.dumps(taken)
            if shown is None or (name in bound and not answer["firm"][item]):
                continue
            if answer["accepted"][item]:
                assert label[name] in shown.split(" + "), (name, json.dumps(taken))
            else:
                assert label[name] is None, (name, json.dumps(taken))


def test_what_the_page_refuses_the_next_run_would_too(rules):
    discovery = found.discovery(size=36)
    assignment = discovery.assignment
    generator = np.random.default_rng(1)
    lists = [some_decisions(generator, discovery) for _ in range(100)]
    base = {
        "ids": list(assignment.ids),
        "clusters": assignment.clusters.tolist(),
        "labels": assignment.labels.tolist(),
        "names": list(assignment.names),
        "numKnown": assignment.num_known,
        "named": [],
        "hidden": [0] * 6,
        "hiddenLabeled": [0] * 6,
    }
    for answer in rules.evaluate(_TAKE, [base, lists]):
        split = {
            name
            for one in answer["taken"]
            if one["action"] == "split"
            for name in one["names"]
        }
        for length, one in answer["refused"]:
            # The page knows no parts of what is yet to be split.
            if split or one["action"] == "split":
                continue
            decisions = as_round(discovery, [*answer["taken"][:length], one])
            with pytest.raises(ValueError, match=r"."):
                apply(discovery.records, decisions, discovery.features)
