"""The page as a file: what is in it, how large it is, what it may do."""

import base64
import dataclasses
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd import sources
from eagc_jax.gcd.decisions import Decision, Decisions, Round
from eagc_jax.gcd.report.explorer import closeness, content, layout, page, write_page
from eagc_jax.gcd.report.explorer.thumbnails import LEVELS, thumbnails
from eagc_jax.gcd.sources import BadItem
from tests.gcd.report.explorer import found
from tests.gcd.report.explorer.found import HOSTILE


def written(discovery, path, **options):
    write_page(discovery, path, **options)
    return path.read_text(encoding="utf-8")


def data_in(html):
    [text] = re.findall(r'id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_the_same_discovery_gives_the_same_file(tmp_path):
    first = written(found.discovery("image"), tmp_path / "one.html")
    assert first == written(found.discovery("image"), tmp_path / "two.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_only_its_own_scripts_may_run(tmp_path):
    html = written(found.discovery(), tmp_path / "page.html")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy
    scripts = re.findall(
        r"<script(?: type=\"module\")?>(.*?)</script>", html, re.DOTALL
    )
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    for text in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    # Nothing is made from markup, and nothing is asked of a network.
    own = scripts[1]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "fetch(", "eval(", "http"):
        assert word not in own


def test_names_cannot_leave_their_place(tmp_path):
    names = (*found.NAMES[:3], HOSTILE, "{{data}}", "<!--<script>")
    hostile = found.discovery(names=names, name=HOSTILE)
    html = written(hostile, tmp_path / "page.html", folder=f"run{HOSTILE}")
    plain = written(found.discovery(), tmp_path / "plain.html")
    for tag in ("<script", "</script", "<img", "<!--", "--accent: #0b5cad"):
        assert html.count(tag) == plain.count(tag)
    data = data_in(html)
    assert data["names"] == list(names)
    assert data["title"] == HOSTILE
    assert "'run</script>" in data["command"]  # quoted for the shell


def test_ids_that_are_no_text_survive(tmp_path):
    ids = ("bad\udcff.jpg", *(str(i) for i in range(59)))
    html = written(found.discovery(ids=ids), tmp_path / "page.html")
    assert data_in(html)["items"]["ids"][0] == "bad\\udcff.jpg"


def test_without_features_there_is_no_map(tmp_path):
    nothing = np.zeros((60, 0), np.float32)
    discovery = found.discovery(features=nothing, adapted=nothing)
    bare = dataclasses.replace(
        discovery, centres=np.zeros((6, 0)), rehearsal=None, history=None, estimate=None
    )
    data = data_in(written(bare, tmp_path / "page.html"))
    assert "there is no map" in data["notes"]["map"]
    assert (data["rehearsal"], data["curves"], data["coordinator"]) == (None, [], None)
    assert data["classes"] == {"number": 6, "low": None, "high": None}


def test_what_a_cluster_shows(tmp_path):
    data = data_in(written(found.discovery(), tmp_path / "page.html"))
    cat = data["clusters"][0]
    assert cat["size"] == 10
    assert 0 not in cat["medoids"]  # it lies among the dogs
    assert len(cat["uncertain"]) == 5  # those that are not labeled
    assert [k for k, _ in cat["near"]] == [1, 2]
    assert data["suspects"] == [[0, 1]]
    assert data["duplicates"][0][:2] == [6, 12]
    assert 5 in data["outliers"]
    assert data["scores"][-1] == ["NMI", None]
    assert data["rehearsal"]["candidates"][1]["new"] == [0.55, 0.63, 0.72]
    title = [one["title"] for one in data["curves"]]
    assert any("Loss" in one for one in title)
    assert data["coordinator"]["layers"][0] == ["adapter/kernel", 1.0, 0.8]


def test_earlier_decisions_stay_in_the_file(tmp_path):
    named = Decision("rename", ("novel-7",), name="novel-2")
    one = Round("run", {"novel-7": ("item 4",)}, (named,))
    discovery = found.discovery(decisions=Decisions((one,)))
    data = data_in(written(discovery, tmp_path / "page.html"))
    assert data["earlier"] == [one.plain()]
    assert data["named"] == [4]
    assert "1 decisions of a person were obeyed" in data["protocol"][-1]


def test_pictures_fit_into_the_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (150, 200, 200, 3), np.uint8)
    discovery = found.discovery("image", 150, items=sources.ArrayItems(noise))
    sides = []
    for most in (1_000_000, 3_000_000):
        path = tmp_path / f"{most}.html"
        data = data_in(written(discovery, path, max_bytes=most))
        assert path.stat().st_size <= most
        assert data["items"]["withoutPicture"] == 0
        sides.append(data["items"]["side"])
    assert sides[0] < sides[1]
    with pytest.raises(ValueError, match="max_bytes must be at least 1,000,000, got 9"):
        write_page(discovery, tmp_path / "no.html", max_bytes=9)


def test_what_is_looked_at_first_keeps_its_picture():
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    made = thumbnails(sources.ArrayItems(noise), [7, 3, *range(8, 40)], 6_000)
    assert list(made.pictures)[:2] == [7, 3]
    assert made.side == LEVELS[-1][0]
    assert made.left_out == 34 - len(made.pictures) > 0
    assert sum(map(len, made.pictures.values())) <= 6_000


def test_pictures_of_any_kind():
    class Items(list):
        def __getitem__(self, row):
            if row == 3:
                raise BadItem("3", "torn")
            return super().__getitem__(row)

    grey = np.full((8, 8, 1), 0.5, np.float32)
    items = Items([grey, np.zeros((300, 100, 3), np.uint8), grey[..., 0], None])
    made = thumbnails(items, [0, 1, 2, 3], 1_000_000)
    sizes = {
        row: Image.open(io.BytesIO(base64.b64decode(one))).size
        for row, one in made.pictures.items()
    }
    assert sizes == {0: (96, 96), 1: (53, 160), 2: (96, 96)}


def test_of_many_items_some_of_every_cluster(monkeypatch, tmp_path):
    monkeypatch.setattr(content, "SHOWN", 50)
    monkeypatch.setattr(page, "_FILE", "decisions.json")
    discovery = found.discovery("embedding", 600)
    data = data_in(written(discovery, tmp_path / "page.html"))
    assert len(data["items"]["ids"]) == 50
    assert "shows 50 of 600 items" in data["notes"]["sampled"]
    shown = np.bincount(data["items"]["clusters"])
    for k, cluster in enumerate(data["clusters"]):
        assert shown[k] > 0
        assert cluster["size"] == shown[k] + cluster["hidden"] == 100
        assert len(cluster["more"]) == cluster["hidden"]
    every = [*data["items"]["ids"], *(i for c in data["clusters"] for i in c["more"])]
    assert sorted(every) == sorted(discovery.records.ids)


def test_names_that_do_not_fit_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(content, "SHOWN", 50)
    ids = tuple(f"{i:06}{'x' * 3000}" for i in range(600))
    discovery = found.discovery("embedding", 600, ids=ids)
    path = tmp_path / "page.html"
    data = data_in(written(discovery, path, max_bytes=1_500_000))
    listed = sum(len(cluster["more"]) for cluster in data["clusters"])
    assert 0 < listed < 550
    assert f"names of {550 - listed} items did not fit" in data["notes"]["sampled"]


def test_a_map_is_made_of_a_sample():
    generator = np.random.default_rng(0)
    clusters = np.arange(300) % 3
    features = np.eye(8)[clusters] + 0.1 * generator.normal(size=(300, 8))
    found_ = layout.place(features, clusters, mapped=60)
    assert found_.shape == (300, 2)
    assert found_.min() >= 0
    assert found_.max() <= 1
    np.testing.assert_array_equal(found_, layout.place(features, clusters, mapped=60))
    middles = np.stack([found_[clusters == k].mean(axis=0) for k in range(3)])
    gaps = np.linalg.norm(found_[:, None] - middles, axis=2)
    assert np.mean(gaps.argmin(axis=1) == clusters) > 0.95


def test_duplicates_within_clusters_of_many(monkeypatch):
    features = np.random.default_rng(0).normal(size=(80, 6))
    features[41] = features[3]  # 1 and 3, of other clusters
    features[44] = features[4]
    clusters = np.arange(80) % 2
    pairs = {p[:2] for p in closeness.near_duplicates(features, clusters)}
    assert pairs == {(3, 41), (4, 44)}
    monkeypatch.setattr(closeness, "SEARCHED", 60)
    clusters[41] = 0
    pairs = {p[:2] for p in closeness.near_duplicates(features, clusters)}
    assert pairs == {(4, 44)}
