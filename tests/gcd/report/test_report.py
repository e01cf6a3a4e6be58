"""The report: every file is there, true to the numbers, and safe with odd input."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd.evaluation.accuracy import Accuracy, cluster_accuracy
from eagc_jax.gcd.report import captions, figures, write_report
from eagc_jax.gcd.report.clusters import Cluster, describe_clusters, most_telling
from eagc_jax.gcd.report.contact_sheet import to_tile
from eagc_jax.gcd.report.feature_map import embed
from eagc_jax.gcd.report.figures import drawable
from eagc_jax.gcd.report.gradients import forward_order, mean_cosines
from eagc_jax.gcd.report.layers import (
    TIMES,
    _power,
    gate_moves,
    log2_ratios,
    relative_gates,
)
from eagc_jax.gcd.runs.history import RunHistory, Snapshot
from eagc_jax.gcd.training.measures import Trace

PLOTS = {
    *("accuracy.png", "gates.png", "energy_ratio.png", "features.png"),
    *("clusters.png", "confusion.png", "losses.png", "entanglement.png"),
    *("cosines.png", "gradient_norms.png", "projection.png"),
}
PARAMETERS = [
    *("backbone/blocks/1/attn/qkv/kernel", "backbone/blocks/1/mlp/fc1/kernel"),
    *("backbone/blocks/1/norm1/scale", "head/classifier/kernel"),
]
LAYERS = ["block.attention.kernel", "block.mlp.kernel", "classifier.kernel"]


def make_trace(rng, objectives, steps=4, coordinated=True):
    """An epoch of which every other step was measured."""
    measured = np.where(np.arange(steps) % 2 == 0, 1.0, np.nan)
    seen = 1.0 if coordinated else np.nan
    layers = len(PARAMETERS)
    return Trace(
        losses=rng.random((steps, objectives)),
        gradient_deviation=measured * rng.random(steps),
        gradient_norms=measured[:, None, None]
        * rng.uniform(0.1, 2, (steps, objectives, layers)),
        cosines=measured[:, None] * rng.uniform(-1, 1, (steps, layers)),
        gates=np.zeros((steps, objectives, 0)),
        labeled_reference=seen * rng.random(steps),
        projection_quantiles=seen * np.sort(rng.random((steps, 5))),
        removed=seen * rng.random(steps),
        added=seen * rng.random(steps),
    )


def make_run(name, epochs=3, objectives=2, gated=True):
    rng = np.random.default_rng(objectives)
    energy = [rng.uniform(0.1, 2, (objectives, len(LAYERS))) for _ in range(epochs)]
    names = ("supervised", "unsupervised", *"cdefgh")[:objectives]
    return RunHistory(
        name=name,
        epochs=list(range(1, epochs + 1)),
        accuracy=[Accuracy(0.5 + 0.01 * e, 0.6, 0.4) for e in range(epochs)],
        losses={n: [2.0 / (e + 1) for e in range(epochs)] for n in names},
        layers=LAYERS,
        decision="gate" if gated else None,
        decided=[objectives * e / e.sum(axis=0) for e in energy] if gated else [],
        energy=energy if gated else [],
        objective_names=names,
        seconds=[1.25] * epochs,
        subspace_overlap=[0.5 + 0.1 * e for e in range(epochs)],
        parameters=PARAMETERS,
        traces=[make_trace(rng, objectives, coordinated=gated) for _ in range(epochs)],
    )


def make_snapshot(count=60, classes=4, channels=1, names=None, **changes):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    known = tuple(range(classes // 2))
    mistaken = rng.random(count) < 0.2
    predictions = np.where(mistaken, rng.permutation(labels), (labels + 1) % classes)
    features = rng.normal(size=(count, 6)) + 4 * np.eye(max(classes, 6))[labels][:, :6]
    snapshot = Snapshot(
        title="Four kinds of things",
        settings={"config": {"rate": 0.001}, "versions": {"jax": "9.8.7"}, "seed": 31},
        images=rng.random((count, 8, 8, channels)),
        labels=labels,
        old_mask=np.isin(labels, known),
        class_names=tuple(names or (f"kind {i}" for i in range(classes))),
        features={"sum": features, "EAGC": features + 0.1},
        predictions={"sum": labels.copy(), "EAGC": predictions},
        accuracy={
            "k-means": Accuracy(0.1111, 0.2222, 0.3333),
            "sum": Accuracy(0.4444, 0.5557, 0.6666),
            "EAGC": Accuracy(0.7777, 0.8888, float("nan")),
        },
        known_classes=known,
    )
    return dataclasses.replace(snapshot, **changes)


class _References(HTMLParser):
    """Everything a page could load or run, and the text that a reader sees."""

    def __init__(self):
        super().__init__()
        self.targets, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        loading = {"src", "href", "srcset", "data", "action", "poster", "style"}
        self.targets += [value for name, value in attrs if name in loading]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    parser = _References()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = {"sum": make_run("sum", gated=False), "EAGC": make_run("EAGC")}
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return write_report(folder, runs, make_snapshot())


@pytest.fixture
def coarse(monkeypatch):
    """Fewer pixels where nobody looks at them: encoding is most of the time."""
    monkeypatch.setattr(figures, "DPI", 40)


def test_every_file_is_there_and_nothing_else(report):
    assert {f.name for f in report.parent.iterdir()} == PLOTS | {"index.html"}
    assert report.name == "index.html"


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_plots_are_images_of_sensible_size_with_something_on_them(report, name):
    with Image.open(report.parent / name) as image:
        assert image.format == "PNG"
        assert 800 <= image.width <= 2000
        assert 300 <= image.height <= 3000
        grey = np.asarray(image.convert("L"))
    assert 0.005 < (grey < 200).mean() < 0.6


def test_the_page_is_self_contained(report):
    page = read(report)
    assert len(page.targets) == len(PLOTS)
    assert all(t.startswith("data:image/png;base64,") for t in page.targets)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    text = report.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_shows_the_table_and_the_settings(report):
    text = report.read_text(encoding="utf-8")
    for number in ("11.1", "22.2", "33.3", "44.4", "55.6", "66.7", "77.8", "88.9"):
        assert f">{number}</td>" in text
    for words in (
        "k-means",
        "sum",
        "EAGC",
        "kind 0",
        "kind 3",
        "Hungarian",
        "last epoch",
    ):
        assert words in text
    for value in ("config.rate", "0.001", "versions.jax", "9.8.7", "seed", "31"):
        assert f"<td>{value}</td>" in text
    # NaN loses against any number: the best of New is the 66.7 of the plain sum.
    assert '<td class="number best">66.7</td>' in text
    assert '<td class="number">-</td>' in text
    assert "nan" not in re.sub(r'src="[^"]*"', "", text).lower()


def test_equal_input_gives_equal_files(report, tmp_path):
    runs = {"sum": make_run("sum", gated=False), "EAGC": make_run("EAGC")}
    again = write_report(tmp_path, runs, make_snapshot())
    for name in sorted(PLOTS | {"index.html"}):
        assert (again.parent / name).read_bytes() == (report.parent / name).read_bytes()


def test_hostile_and_odd_text_is_shown_as_text(tmp_path, coarse):
    names = (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(2)>',
        "$\\frac{1}{$ & 猫 \n\t long " + "x" * 300,
        "\x00\ud800 $a$ $b_{$",
    )
    evil = "<b>$x_{$</b>"
    snapshot = make_snapshot(names=names, title=evil, settings={evil: {evil: evil}})
    for mapping in (snapshot.features, snapshot.predictions, snapshot.accuracy):
        mapping[evil] = mapping.pop("EAGC")
    run = dataclasses.replace(make_run(evil), layers=[evil, *names[:2]])
    page = write_report(tmp_path, {evil: run}, snapshot)
    parsed = read(page)
    assert len(parsed.targets) == len(PLOTS)
    assert not {"script"} & set(parsed.tags)
    assert parsed.tags.count("b") == 2  # the page's own
    seen = "".join(parsed.text)
    assert names[0] in seen
    assert names[1] in seen
    assert "猫" in seen
    assert evil in seen


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_interrupted_run_still_gives_a_report(tmp_path, coarse, epochs):
    runs = {"sum": RunHistory("sum"), "EAGC": make_run("EAGC", epochs=epochs)}
    page = write_report(tmp_path, runs, make_snapshot(count=12))
    assert len(read(page).targets) == len(PLOTS)


def test_lists_of_different_length_and_nothing_predicted(tmp_path, coarse):
    run = make_run("EAGC", epochs=3)
    run.accuracy.pop()
    run.losses["supervised"].pop()
    run.decided.pop()
    run.traces.pop()
    run.subspace_overlap.pop(0)
    snapshot = make_snapshot(features={}, predictions={}, accuracy={})
    text = write_report(tmp_path, {"EAGC": run}, snapshot).read_text(encoding="utf-8")
    assert "No run came to an evaluation" in text


@pytest.mark.slow
def test_more_objectives_and_zero_energies(tmp_path, coarse):
    run = make_run("EAGC", objectives=6)
    run.energy[0][:] = 0.0
    run.energy[1][0] = 0.0
    run.decided[1][:, 1] = np.nan
    run.traces[0].gradient_norms[:, 0] = 0.0
    run.traces[1].cosines[:] = np.nan
    run.parameters = []
    page = write_report(
        tmp_path, {"EAGC": run}, make_snapshot(count=12, channels=3, features={})
    )
    assert len(read(page).targets) == len(PLOTS)


def test_epochs_without_evaluation_or_measurement(tmp_path, coarse):
    run = make_run("EAGC", epochs=3)
    run.accuracy[:2] = [Accuracy(float("nan"), float("nan"), float("nan"))] * 2
    run.subspace_overlap[:2] = [float("nan")] * 2
    unmeasured = {
        "gradient_norms": np.zeros((4, 2, 0)),
        "cosines": np.zeros((4, 0)),
        "gradient_deviation": np.full(4, np.nan),
    }
    run.traces = [trace._replace(**unmeasured) for trace in run.traces]
    page = write_report(tmp_path, {"EAGC": run}, make_snapshot(features={}))
    text = page.read_text(encoding="utf-8")
    assert "last figures: GDC -, SOC 0.70" in text
    assert "over all epochs: below 0" not in text


def test_captions_say_where_objectives_conflict_and_what_was_taken():
    run = make_run("EAGC", epochs=2)
    for trace in run.traces:
        trace.cosines[:] = [0.5, -0.25, 0.5, np.nan]
        trace.gradient_norms[:] = np.array([[1.0, 2, 4, 1], [1, 1, 1, 0]])
        trace.projection_quantiles[:, 2] = 0.125
        trace.removed[:] = 0.25
    runs = {"EAGC": run, "plain": make_run("plain", gated=False)}
    assert (
        "EAGC, over all epochs: below 0 in 1 of 3 layers, lowest in "
        "blocks/1/mlp/fc1/kernel (-0.25)." in captions.cosines(runs)
    )
    run.objective_weights = (0.25, 0.5)
    expected = f"EAGC, last epoch: 0.5{TIMES} to 2{TIMES} over layers."
    assert expected in captions.gradient_norms(runs)
    assert "EAGC, mean over steps: median w 0.12, removed 0.25" in captions.projection(
        runs
    )
    assert "plain, mean" not in captions.projection(runs)
    np.testing.assert_allclose(
        mean_cosines(run)[:3], [[0.5] * 2, [-0.25] * 2, [0.5] * 2]
    )
    assert np.isnan(mean_cosines(run)[3]).all()


def test_layers_are_in_the_order_of_the_network():
    names = [
        *("backbone/blocks/10/attn/proj/bias", "backbone/blocks/10/attn/qkv/bias"),
        *("backbone/blocks/2/norm2/scale", "backbone/blocks/9/norm1/scale"),
        *(
            "head/norm1/kernel",
            "head/classifier/kernel",
            "backbone/blocks/2/mlp/fc2/bias",
        ),
    ]
    order = [names[i] for i in forward_order(names)]
    assert order == [names[i] for i in (2, 6, 3, 1, 0, 5, 4)]


@pytest.mark.slow
def test_many_clusters_are_capped_and_the_page_says_so(tmp_path, coarse):
    snapshot = make_snapshot(count=272, classes=136, features={})
    page = write_report(tmp_path, {"EAGC": make_run("EAGC")}, snapshot, focus="sum")
    assert "At most 24 clusters are shown" in page.read_text(encoding="utf-8")
    with Image.open(tmp_path / "clusters.png") as image:
        assert image.height < 2000


def test_features_that_collapsed_or_diverged(tmp_path, coarse):
    features = {"sum": np.ones((60, 6)), "EAGC": np.full((60, 6), np.nan)}
    page = write_report(tmp_path, {}, make_snapshot(features=features))
    assert page.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(3, int)}, r"labels must have shape \(60,\)"),
        ({"predictions": {"sum": np.zeros((60, 1), int)}}, r"predictions\['sum'\]"),
        ({"features": {"sum": np.zeros((59, 2))}}, r"features\['sum'\]"),
        ({"images": np.zeros((60, 8, 8))}, r"images must have shape \(N, H, W, C\)"),
    ],
)
def test_arrays_that_disagree_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, {}, make_snapshot(**changes))
    assert not list(tmp_path.iterdir())


def test_an_unknown_focus_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"focus='other'.*choose from \['sum', 'EAGC'\]"
    ):
        write_report(tmp_path, {}, make_snapshot(), focus="other")


def test_clusters_add_up_to_the_accuracy():
    rng = np.random.default_rng(3)
    labels, ids = rng.integers(0, 6, 300), rng.integers(0, 9, 300)
    clusters = describe_clusters(labels, ids, {0, 1, 2})
    correct = sum(c.correct for c in clusters if c.matched is not None)
    assert correct / 300 == pytest.approx(cluster_accuracy(labels, ids, labels < 3).all)
    assert sum(c.size for c in clusters) == 300
    assert sum(c.matched is None for c in clusters) >= 3


def test_the_most_telling_clusters_favour_novel_ones():
    def cluster(i, known):
        matched = None if known is None else i
        return Cluster(i, 100 - i, matched, known, 1, i, 0.5)

    known = [cluster(i, True) for i in range(10)]
    novel = [cluster(i, False) for i in range(10, 20)]
    rest = [cluster(20, None)]
    chosen = most_telling(known + novel + rest, 6)
    assert [c.id for c in chosen] == [10, 11, 12, 13, 0, 1]
    assert len(most_telling(known + novel[:1], 6)) == 6
    assert len(most_telling(novel, 6)) == 6
    assert len(most_telling(known + novel + rest, 99)) == 21


@pytest.mark.parametrize("shape", [(8, 8, 1), (40, 20, 3), (100, 90, 4), (5, 9, 2)])
def test_tiles_have_one_size_and_keep_their_range(shape):
    tile = to_tile(np.full(shape, 1.7))
    assert tile.shape == (64, 64, 3)
    assert tile.dtype == np.uint8
    assert tile.min() == 255
    assert to_tile(np.full((8, 8, 1), np.nan)).max() == 0


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (9, 1), (30, 3), (12, 200)])
def test_the_map_has_two_finite_axes_whatever_the_shape(shape):
    points = embed(np.random.default_rng(0).normal(size=shape))
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


def test_the_map_keeps_separate_groups_apart():
    groups = np.repeat(np.arange(3), 20)
    noise = np.random.default_rng(0).normal(size=(60, 8))
    points = embed(10 * np.eye(8)[groups] + noise)
    centres = np.array([points[groups == g].mean(axis=0) for g in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(axis=1)
    assert (nearest == groups).mean() > 0.95


def test_ratios_are_undefined_where_an_objective_is_silent():
    energy = np.array([[[4.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(log2_ratios(energy), [[[2.0, np.nan, np.nan]]])


def test_a_constant_gate_does_not_count_as_moving():
    run = make_run("sum")
    assert gate_moves(run)
    run.decided = [np.ones((2, 3))] * 3
    assert not gate_moves(run)
    assert "sum: no gate or weight, or one that never moved." in captions.gates(
        {"sum": run}
    )


def test_weights_act_on_weighted_gradients_and_projections_leave_a_share():
    run = make_run("upgrad")
    run.objective_weights = (0.25, 0.75)
    run.decided = [np.array([[1.5], [0.5]])]
    run.decision = "weight"
    np.testing.assert_allclose(relative_gates(run), [[[1.5], [0.5]]])
    run.decision = "projection"
    run.decided = [np.array([[0.0], [0.25]])]
    np.testing.assert_allclose(relative_gates(run), [[[1.0], [0.75]]])


def test_gates_are_shown_relative_to_the_loss_weights():
    run = make_run("sum")
    run.objective_weights = (0.25, 0.75)
    run.decided = [np.array([[0.25, 0.5], [0.75, 0.5]])]
    np.testing.assert_allclose(relative_gates(run), [[[1, 2], [1, 2 / 3]]])
    assert "supervised is at 1.00 to 2.00 times its weight" in captions.gates(
        {"r": run}
    )
    run.decided = [np.array([[0.25, 0.25], [0.75, 0.75]])]
    assert not gate_moves(run)
    run.objective_weights = (0.0, 1.0)
    assert np.isnan(relative_gates(run)[0, 0]).all()
    assert "undefined" in captions.gates({"r": run})


def test_powers_of_two_below_one_are_fractions():
    found = [_power(exponent) for exponent in (2.0, 0.0, -4.0, -0.5)]
    assert found == [f"{number}{TIMES}" for number in ("4", "1", "1/16", "0.71")]


def test_drawable_text_is_short_and_plain():
    assert drawable("a\n b" + "c" * 50, 10) == "a bcccccc…"
    assert drawable("猫") == "□"
    assert drawable("$") == r"\$"
