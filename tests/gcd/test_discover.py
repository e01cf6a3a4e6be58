"""The whole way down, on embeddings and on texts with a tiny backbone."""

import csv
import dataclasses
import os

import jax
import numpy as np
import pytest

from eagc_jax.gcd import (
    BackboneSettings,
    ClusteringSettings,
    DiscoverSettings,
    SourceSettings,
    backbones,
    clustering,
    discover,
    pipeline,
    read_settings,
    reopen,
    sources,
)
from eagc_jax.gcd.evaluation.certainty import certainty
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.settings.plain import from_plain, to_plain
from eagc_jax.gcd.settings.running import RunSettings, recommended
from eagc_jax.gcd.stages.material import Material
from eagc_jax.gcd.training.settings import AdapterConfig, TrainConfig, WarmStart
from tests.gcd import clouds, tiny

FOUR = ClusteringSettings(num_classes=4)


def settings_of(path, **source):
    return DiscoverSettings(
        SourceSettings(str(path), **source), clustering=FOUR, quick=True
    )


def rows_of(run):
    with open(run / "assignment.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_semi_supervised_kmeans(tmp_path):
    found = discover(settings_of(clouds.write(tmp_path)))
    labels = np.array([clouds.CLASSES.index(x) if x else -1 for x in clouds.labels()])
    by_hand = clustering.semi_supervised_kmeans(
        jax.random.key(0), clouds.features(), 4, labels, labels >= 0
    )
    # The same clusters but for the novel ones' order, which is by size.
    clusters = found.assignment.clusters.tolist()
    both = set(zip(clusters, by_hand.assignments.tolist(), strict=True))
    assert len(both) == 4
    assert {(0, 0), (1, 1)} < both
    np.testing.assert_array_equal(
        np.sort(found.centres, axis=0), np.sort(by_hand.centres, axis=0)
    )
    names = np.array(clouds.CLASSES)[clouds.truth()]
    renamed = {"cherry": "novel-2", "date": "novel-1"}
    assert found.assignment.assigned == [renamed.get(name, name) for name in names]
    assert found.scores is None


def test_clusters_that_are_renumbered_keep_their_centres():
    clusters = np.array(
        [0, 1, 2, 2, 3, 4, 4, 4]
    )  # sizes of novel ones: a cycle of three
    rows = np.eye(8, dtype=np.float32)[clusters]
    records = sources.Records(
        "axes",
        "embedding",
        sources.ArrayItems(rows),
        ids=tuple("abcdefgh"),
        labels=np.array([0, 1, -1, -1, -1, -1, -1, -1]),
        class_names=("x", "y"),
        num_known=2,
    )
    material = Material(records, None, rows, (), 0, None, None)
    found, centres, _ = pipeline._answer(material, rows, clusters, np.eye(8)[:5])
    names = [f"novel-{number}" for number in (2, 2, 3, 1, 1, 1)]
    assert found.assigned == ["x", "y", *names]
    np.testing.assert_array_equal(found.distance, np.zeros(8))
    np.testing.assert_array_equal(centres[found.clusters], rows)


def test_a_run_says_all_of_it_in_the_source_s_order(tmp_path):
    path = clouds.write_npz(tmp_path)
    found = discover(settings_of(path), out=tmp_path / "run")
    rows = rows_of(found.folder)
    assert [row["id"] for row in rows] == [f"row {i}" for i in range(clouds.ROWS)]
    assert [row["label"] for row in rows] == clouds.labels()
    assert all(row["assigned"] == row["label"] for row in rows if row["label"])
    assert all(
        (row["is_known"] == "True") == ("-" not in row["assigned"]) for row in rows
    )
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    assert {name for name in os.listdir(found.folder) if name[0] != "."} == {
        *("assignment.csv", "assignment.parquet", "settings.json", "skipped.csv"),
        *("summary.json", "model.json", "model.safetensors", "page.html"),
    }
    assert (found.folder / "skipped.csv").read_text() == "id,reason\n"


def test_the_truth_changes_nothing_but_the_scores(tmp_path):
    path = clouds.write_npz(tmp_path)
    discover(settings_of(path), out=tmp_path / "without")
    told = discover(settings_of(path, truth_column="truth"), out=tmp_path / "with")
    assert told.scores == (1.0, 1.0, 1.0, 1.0, 1.0)
    for name in ("assignment.csv", "assignment.parquet"):
        assert (tmp_path / "with" / name).read_bytes() == (
            tmp_path / "without" / name
        ).read_bytes()


def test_the_settings_give_the_run_back(tmp_path, monkeypatch):
    clouds.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(settings_of("clouds.npy"), seed=3)
    discover(settings, out="first")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = read_settings(tmp_path / "first")
    assert again.seed == 3
    discover(again, out=tmp_path / "second")
    for name in ("assignment.csv", "settings.json"):
        assert (tmp_path / "first" / name).read_bytes() == (
            tmp_path / "second" / name
        ).read_bytes()


def test_the_number_of_classes_is_estimated_unless_given(tmp_path):
    found = discover(clouds.write(tmp_path), DiscoverSettings(quick=True))
    assert found.estimate.low <= found.num_classes <= found.estimate.high
    assert found.summary()["num_classes"] == found.num_classes == found.estimate.number
    assert found.settings.source.data == str(tmp_path / "clouds.npy")


@pytest.mark.parametrize("number", [1, 100])
def test_a_number_of_classes_that_cannot_be(tmp_path, number):
    settings = dataclasses.replace(
        settings_of(clouds.write(tmp_path)), clustering=ClusteringSettings(number)
    )
    with pytest.raises(
        ValueError, match=rf"num_classes must be in \[2, .*got {number}"
    ):
        discover(settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_items_are_left_out_and_listed(tmp_path):
    features = clouds.features()
    features[[4, 7]] = np.nan
    settings = settings_of(clouds.write_npz(tmp_path, embeddings=features))
    with pytest.raises(sources.BadItem, match=r"row 4 of .*clouds\.npz"):
        discover(settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    skip = dataclasses.replace(settings.source, on_bad_item="skip")
    found = discover(dataclasses.replace(settings, source=skip), out=tmp_path / "run")
    ids = [row["id"] for row in rows_of(found.folder)]
    assert ids == [f"row {i}" for i in range(clouds.ROWS) if i not in (4, 7)]
    with open(found.folder / "skipped.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["row 4", "row 7"]
    assert len(found.skipped) == 2


def test_a_class_that_lost_its_labeled_items_is_novel(tmp_path):
    # Also a third class is labeled, but with one item, which is bad.
    labels, features = np.array(clouds.labels(), "<U9"), clouds.features()
    lonely = int(np.flatnonzero(clouds.truth() == 2)[0])
    labels[lonely], features[lonely] = "aardvark", np.nan
    truth = np.array(clouds.CLASSES)[clouds.truth()].astype("<U9")
    truth[truth == "cherry"] = "aardvark"
    path = clouds.write_npz(tmp_path, embeddings=features, labels=labels, truth=truth)
    settings = settings_of(path, on_bad_item="skip", truth_column="truth")
    with pytest.warns(UserWarning, match="counted as novel.*aardvark"):
        found = discover(settings)
    assert found.records.num_known == 2
    assert found.assignment.names == ("apple", "banana", "novel-1", "novel-2")
    assert found.scores.all == 1.0


def test_texts_by_a_backbone_of_ones_own(tmp_path):
    table = tmp_path / "t.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            zip(map(str, range(clouds.ROWS)), clouds.labels(), strict=True)
        )
    network = backbones.callable_backbone(
        lambda texts: clouds.features()[[int(text) for text in texts]],
        "text",
        clouds.WIDTH,
        version="1",
    )
    found = [
        discover(settings_of(table), backbone=network, cache=tmp_path / "cache")
        for _ in range(2)
    ]
    assert [one.embedded for one in found] == [clouds.ROWS, 0]
    assert found[0].assignment.assigned == found[1].assignment.assigned
    given = discover(settings_of(clouds.write(tmp_path)))
    assert found[0].assignment.assigned == given.assignment.assigned


def test_certainty_is_the_distances_softmax_in_float64():
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 5)).astype(np.float32)
    centres = random.normal(size=(4, 5)).astype(np.float32) / 3
    clusters = random.integers(0, 4, 30)  # few of them the nearest
    labels = np.where(np.arange(30) % 3 == 0, clusters, -1)
    temperature = clustering.fit_temperature(rows, centres, labels, clusters)
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = np.sum((unit[:, None] - centres.astype(np.float64)) ** 2, axis=2)
    weights = np.exp(-distances / temperature)
    at = np.arange(30), clusters
    others = distances.copy()
    others[at] = np.inf
    found = certainty(rows, centres, clusters, labels)
    # Sums of five float32 squares; the exponent multiplies errors by 1 / T.
    np.testing.assert_allclose(found.distance, distances[at], rtol=2e-6)
    margins = others.min(axis=1) - distances[at]
    np.testing.assert_allclose(found.margin, margins, atol=2e-6)
    probability = (weights / weights.sum(axis=1, keepdims=True))[at]
    np.testing.assert_allclose(found.probability, probability, rtol=1e-5 / temperature)
    assert (found.margin < 0).any()


def test_settings_are_plain_values_and_back():
    settings = DiscoverSettings(
        SourceSettings("data", text_column=None, on_bad_item="skip"),
        BackboneSettings("vit", "weights.pth", image_size=224),
        ClusteringSettings(7, balanced=True),
        RunSettings(SimGCD(head_hidden=8), TrainConfig(seed=2)),
        seed=5,
    )
    assert from_plain(DiscoverSettings, to_plain(settings)) == settings


def test_training_goes_on_from_the_first_answer(tmp_path):
    config = TrainConfig(
        epochs=1,
        batch_size=16,
        log_every=0,
        trains="adapter",
        adapter=AdapterConfig(hidden=4, noise=0.1),
        warm_start=WarmStart(epochs=1, restarts=10),
    )
    run = RunSettings(SimGCD(head_hidden=8, head_projection=6), config)
    quick = settings_of(clouds.write(tmp_path))
    settings = dataclasses.replace(quick, run=run, quick=False, rehearse=False)
    stages = []
    found = discover(settings, out=tmp_path / "run", on_stage=stages.append)
    assert stages[-3:] == ["training, epoch 1 of 1", "prediction", "writing"]
    assert found.training.history.epochs == [1]
    assert found.first.assigned == discover(quick).assignment.assigned
    assert [x for x in found.assignment.label if x] == [x for x in clouds.labels() if x]
    given = found.records.labeled_mask
    np.testing.assert_array_equal(
        found.assignment.clusters[given], found.records.labels[given]
    )
    assert read_settings(tmp_path / "run").run == run


@pytest.mark.slow
def test_blocks_of_a_backbone_train_on_the_items_themselves(split, backbone):
    run = RunSettings(tiny.METHOD, dataclasses.replace(tiny.CONFIG, epochs=1))
    settings = DiscoverSettings(
        clustering=ClusteringSettings(num_classes=10, restarts=1),
        run=run,
        rehearse=False,
    )
    found = discover(split, settings, backbone=backbone)
    assert found.training.history.epochs == [1]
    assert len(found.assignment.assigned) == 96
    names = found.training.history.parameters
    assert any(name.startswith("backbone/blocks/1/") for name in names)


def test_what_trains_suits_the_data_and_the_device(monkeypatch):
    assert recommended("text", 6).training.adapter.neighbours == 10
    assert recommended("image", 12).training.trains == "adapter"  # this is a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert recommended("image", 12, seed=3).training.trains == "blocks"
    assert recommended("image", 12, seed=3).training.seed == 3
    assert recommended("image", 0).training.trains == "adapter"
    assert recommended("text", 6).training.trains == "adapter"


def test_a_run_is_opened_again(tmp_path):
    features = clouds.features()
    features[[4, 7]] = np.nan
    settings = settings_of(clouds.write_npz(tmp_path, embeddings=features))
    skip = dataclasses.replace(settings.source, on_bad_item="skip")
    made = discover(dataclasses.replace(settings, source=skip), out=tmp_path / "run")
    found = reopen(tmp_path / "run")
    np.testing.assert_array_equal(found.features, made.features)
    np.testing.assert_array_equal(found.assignment.clusters, made.assignment.clusters)
    assert found.assignment.names == made.assignment.names
    assert [bad.item for bad in found.skipped] == [bad.item for bad in made.skipped]
    assert list(found.records.ids) == list(made.records.ids)
    assert found.records.class_names == made.records.class_names
    np.testing.assert_allclose(found.centres, made.centres, atol=1e-6)  # float32 sums
    assert reopen(tmp_path / "run", features=False).features.shape == (
        len(found.features),
        0,
    )


def test_a_run_of_other_data_says_which_item_is_missing(tmp_path):
    path = clouds.write_npz(tmp_path)
    discover(settings_of(path), out=tmp_path / "run")
    few = sources.open_source(path).select(np.arange(clouds.ROWS - 1))
    with pytest.raises(
        ValueError, match=rf"1 items that .* such as row {clouds.ROWS - 1}"
    ):
        reopen(tmp_path / "run", records=few)
