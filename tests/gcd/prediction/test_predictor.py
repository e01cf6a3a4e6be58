"""A predictor does what the discovery did, row by row or all at once."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd import (
    ClusteringSettings,
    DiscoverSettings,
    backbones,
    discover,
    prediction,
)
from eagc_jax.gcd.backbones import vit
from eagc_jax.gcd.prediction import scoring, trained
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.settings.running import RunSettings
from tests.gcd import clouds, tiny
from tests.gcd.prediction import made


@pytest.mark.parametrize("run", made.RUNS)
def test_it_assigns_the_discovery_s_items_as_the_discovery_did(run):
    found, model = made.discovered(run), made.predictor(run)
    unlabeled = ~found.records.labeled_mask
    predicted = model.predict(clouds.features())
    np.testing.assert_array_equal(
        predicted.clusters[unlabeled], found.assignment.clusters[unlabeled]
    )
    assert model.agreement == 1.0
    assert model.note == ""
    assert predicted.is_known.tolist() == [n in model.names[:2] for n in predicted.name]


@pytest.mark.parametrize("run", ["adapter", "heads"])
def test_features_become_what_training_made_of_them(run):
    # Whatever their length was.
    found, model = made.discovered(run), made.predictor(run)
    adapted = scoring.adapted_of(model.trained, 3 * clouds.features())
    np.testing.assert_allclose(adapted, found.adapted, rtol=1e-5, atol=1e-6)


def test_clusters_that_nobody_is_in_are_never_predicted():
    found, model = made.discovered("cold", 9), made.predictor("cold", 9)
    assert len(model.names) < model.trained.task.num_classes == 9
    random = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    assert model.predict(random).clusters.max() < len(model.names)
    unlabeled = ~found.records.labeled_mask
    predicted = model.predict(clouds.features())
    np.testing.assert_array_equal(
        predicted.clusters[unlabeled], found.assignment.clusters[unlabeled]
    )


@pytest.mark.parametrize("run", ["first", "adapter"])
def test_parts_are_what_the_whole_is(run):
    model, rows = made.predictor(run), clouds.features()
    rows = np.concatenate([rows] * 50)
    whole = model.predict(rows)
    for parts in (model.stream(rows, rows=1000), model.stream(np.split(rows, 3))):
        parts = list(parts)
        assert len(parts) == 3
        for name in ("clusters", "probability", "unlike", "nearest", "similarity"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))
    assert len(model.predict(rows[:0])) == 0


def test_the_nearest_labeled_item_by_hand():
    model, rows = made.predictor(), clouds.features()
    labeled = np.flatnonzero(made.discovered().records.labeled_mask)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit[labeled].T
    predicted = model.predict(rows)
    assert predicted.nearest_labeled == [
        f"row {row}" for row in labeled[cosines.argmax(axis=1)]
    ]
    # The examples are kept with eleven bits each.
    np.testing.assert_allclose(predicted.similarity, cosines.max(axis=1), atol=1e-3)


def test_far_from_everything_is_said_so():
    model = made.predictor()
    predicted = model.predict(np.array([np.eye(8)[7], -np.eye(8)[0], np.eye(8)[0]]))
    assert predicted.unlike.tolist() == [True, True, False]
    assert model.predict(clouds.features()).unlike.mean() < 0.05


def test_names_of_a_person_s_own():
    model, rows = made.predictor(), clouds.features()
    assert model.names == ("apple", "banana", "novel-1", "novel-2")
    renamed = model.with_names({0: "pomme", 2: "pomme", 3: None})
    own, plain = renamed.predict(rows), model.predict(rows)
    np.testing.assert_array_equal(own.clusters, plain.clusters)
    assert set(own.name) == {"pomme", "banana", "junk"}
    assert own.is_known[own.clusters == 2].all()
    assert (own.probability >= plain.probability).all()
    kinds = own.batch([str(i) for i in range(48)]).column("known_or_novel").to_pylist()
    assert {k for k, name in zip(kinds, own.name, strict=True) if name == "junk"} == {
        "junk"
    }
    with pytest.raises(ValueError, match=r"clusters 0 to 3, got 4"):
        model.with_names({4: "x"})


def test_a_method_that_remembers_too_much_falls_back_to_centres(monkeypatch):
    monkeypatch.setattr(trained, "_LARGEST_STATE", 8)
    found = made.discovered("centres")
    model = prediction.fit_predictor(
        found.records,
        clouds.features(),
        found.assignment,
        found.centres,
        adapted=found.adapted,
        training=found.training,
    )
    assert "nearest centre" in model.note
    assert model.trained.columns is None
    assert model.agreement == 1.0  # clouds are far apart


def test_agreement_says_when_another_rule_assigned():
    found = made.discovered()
    moved = found.assignment.clusters.copy()
    at = np.flatnonzero((moved == 2) & ~found.records.labeled_mask)[:3]
    moved[at] = 3
    changed = dataclasses.replace(found.assignment, clusters=moved)
    model = prediction.fit_predictor(
        found.records, clouds.features(), changed, found.centres
    )
    unlabeled = int((~found.records.labeled_mask).sum())
    assert model.agreement == pytest.approx(1 - 3 / unlabeled)


def test_so_many_labeled_items_of_each_class_are_kept(monkeypatch):
    from eagc_jax.gcd.prediction import fitting

    monkeypatch.setattr(fitting, "_EXAMPLES", 5)
    labels = np.array([0] * 20 + [1, 1] + [-1] * 3 + [2])
    assert fitting._some_labeled(labels).tolist() == [0, 1, 20, 21, 25]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3)), r"must have shape \(N, 8\).*got \(2, 3\)"),
        (np.zeros(8), r"must have shape \(N, 8\)"),
        (np.array([[0.0] * 8, [np.nan] * 8]), "row 1 is not"),
    ],
)
def test_features_that_cannot_be(rows, message):
    with pytest.raises(ValueError, match=message):
        made.predictor().predict(rows)


def test_arguments_that_do_not_fit():
    found = made.discovered()
    rows, given = clouds.features(), found.assignment
    fit = prediction.fit_predictor
    with pytest.raises(ValueError, match="features must have a row for each of the 48"):
        fit(found.records, rows[:3], given, found.centres)
    with pytest.raises(ValueError, match=r"centres must have shape \(4, 8\)"):
        fit(found.records, rows, given, found.centres[:3])
    with pytest.raises(ValueError, match=r"false_alarms must be in \(0, 1\), got 1"):
        fit(found.records, rows, given, found.centres, false_alarms=1)
    assert isinstance(given, Assignment)


@pytest.mark.slow
def test_blocks_that_were_trained_are_kept(split, backbone, tmp_path):
    run = RunSettings(tiny.METHOD, dataclasses.replace(tiny.CONFIG, epochs=1))
    settings = DiscoverSettings(
        clustering=ClusteringSettings(num_classes=10, restarts=1),
        run=run,
        rehearse=False,
    )
    found = discover(split, settings, backbone=backbone)
    assert found.predictor.agreement == 1.0
    found.predictor.save(tmp_path)
    model = prediction.load_predictor(tmp_path)
    assert {name.split(".")[1] for name in model.blocks} == {"1"}
    before = backbone.fingerprint()
    features = backbones.embed(split, model.load_backbone(backbone)).features
    assert backbone.fingerprint() == before
    np.testing.assert_allclose(features, found.adapted, rtol=1e-4, atol=1e-5)
    unlabeled = ~split.labeled_mask
    predicted = model.predict(features).clusters
    assert (predicted == found.assignment.clusters)[unlabeled].all()
    with pytest.raises(ValueError, match="was given in Python"):
        model.load_backbone()
    other = vit.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="the backbone should be the discovery's"):
        model.load_backbone(other)
    short = dict(model.blocks)
    name = next(iter(short))
    short[name] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="does not fit the backbone"):
        dataclasses.replace(model, blocks=short).load_backbone(backbone)
