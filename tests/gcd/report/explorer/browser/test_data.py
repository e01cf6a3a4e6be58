"""The page of unusual data: hostile names, earlier rounds, more items than it shows."""

import dataclasses

import numpy as np
import pytest

from eagc_jax.gcd.decisions import Decision, Decisions, Round, read_decisions
from eagc_jax.gcd.report.explorer import content
from tests.gcd.report.explorer import found
from tests.gcd.report.explorer.browser.saved import items_of, labels_after
from tests.gcd.report.explorer.found import HOSTILE

pytestmark = pytest.mark.browser


def test_hostile_names_are_text(opened, tmp_path):
    names = (HOSTILE, "__proto__", "constructor", f"n{HOSTILE}", "novel-1", "novel-2")
    ids = tuple(f"{HOSTILE}{i}" for i in range(60))
    discovery = found.discovery("image", names=names, ids=ids, name=HOSTILE)
    reason = dataclasses.replace(discovery, backbone=HOSTILE)
    one = opened(reason)
    page = one.page
    for tab in ("clusters", "items", "check", "decisions", "training", "about"):
        one.tab(tab)
    page.fill("#query", "onerror")
    one.open_cluster(f"n{HOSTILE}")
    assert page.inner_text("#detail-name").startswith("n</script><img src=x")
    assert page.title().startswith("</script><img src=x onerror=alert(1)>{{style}}")
    one.action("rename").click()
    one.answer(New_name="</style><script>alert(2)</script>")
    one.open_cluster("__proto__")
    one.action("known").click()
    one.answer(Class="__proto__")
    page.hover("#map")
    outside = page.evaluate(
        """() => [...document.querySelectorAll("img, script, iframe, link, object")]
          .filter((e) => e.src && !e.src.startsWith("data:image/webp")).length"""
    )
    assert outside == 0
    _, classes, _ = labels_after(discovery, one.saved(tmp_path / "hostile.json"))
    named = [i for i, n in classes.items() if n == "</style><script>alert(2)</script>"]
    assert named == [ids[i] for i in range(60) if i % 6 == 3]
    assert len([i for i, n in classes.items() if n == "__proto__"]) == 10


def test_a_round_goes_on_from_earlier_ones(opened, tmp_path):
    first = Round(
        "first",
        {"novel-9": ("item 2", "item 8")},
        (Decision("rename", ("novel-9",), name="fox"),),
    )
    discovery = found.discovery(decisions=Decisions((first,)))
    one = opened(discovery)
    one.tab("decisions")
    assert "1 decision that this answer was made with" in one.page.inner_text(
        "#decisions"
    )
    one.select("item 3")
    one.action("junk").click()
    found_ = read_decisions(one.saved(tmp_path / "second.json"))
    assert found_.rounds[0] == first
    assert found_.rounds[1].decisions == (Decision("junk", items=("item 3",)),)


def test_a_sample_of_many_items(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(content, "SHOWN", 120)
    discovery = found.discovery("embedding", 600, width=8)
    one = opened(discovery)
    assert "shows 120 of 600 items" in one.page.inner_text("#summary")
    one.open_cluster("novel-1")
    assert "100 items, 0 labeled" in one.page.inner_text("#detail")
    one.action("rename").click()
    one.answer(New_name="bird")
    assert "100 items" in one.page.inner_text("#detail")
    _, classes, _ = labels_after(discovery, one.saved(tmp_path / "many.json"))
    assert items_of(classes, "bird") == list(range(3, 600, 6))
    assert np.sum(discovery.assignment.clusters == 3) == 100
