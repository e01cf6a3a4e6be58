"""Probabilities that hold, alarms at the rate that is stated."""

import jax
import numpy as np
import pytest

from benchmarks.prediction import error, matched
from eagc_jax.gcd import backbones, prediction, sources
from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.prediction import calibration, hiding
from eagc_jax.gcd.runs.assignment import Assignment, name_clusters
from eagc_jax.gcd.settings.choices import BackboneSettings
from tests.gcd import clouds
from tests.gcd.prediction import made

WIDTH, CLASSES, KNOWN = 16, 12, 6


def drawn(rows, seed, spread, apart=0.0):
    """Features of overlapping classes, and the classes; centres are always the same.

    Apart, each class has two centres, which few of its labels tell from two classes.
    """
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    parts = np.random.default_rng(5).normal(size=(CLASSES, 2, WIDTH))
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLASSES, rows)
    part = parts[classes, (random.random(rows) < 0.35).astype(int)]
    noise = random.normal(size=(rows, WIDTH))
    rows = centres[classes] + apart * part + spread * noise
    return rows.astype(np.float32), classes


def assigned(features, labels):
    found = semi_supervised_kmeans(
        jax.random.key(0), features, CLASSES, labels, labels >= 0, restarts=3
    )
    clusters, centres = np.asarray(found.assignments), np.asarray(found.centres)
    names = [str(i) for i in range(KNOWN)]
    order, named = name_clusters(names, clusters, CLASSES)
    clusters = np.argsort(order)[clusters]
    ones = np.ones(len(labels), np.float32)
    ids = sources.strings.RowNumbers(len(labels))
    return (
        Assignment(ids, labels, clusters, named, KNOWN, ones, ones, ones),
        centres[order],
    )


def fitted(spread, apart=0.0, rows=2000, **more):
    features, classes = drawn(rows, 1, spread, apart)
    labels = np.where((classes < KNOWN) & (np.arange(rows) % 2 == 0), classes, -1)
    assignment, centres = assigned(features, labels)
    records = sources.Records(
        "drawn",
        "embedding",
        sources.ArrayItems(features),
        sources.strings.RowNumbers(rows),
        labels.astype(np.int32),
        tuple(str(i) for i in range(KNOWN)),
        KNOWN,
    )
    model = prediction.fit_predictor(records, features, assignment, centres, **more)
    return model, features, classes, labels


def test_alarms_come_at_the_rate_that_is_stated():
    model, *_ = fitted(0.5, false_alarms=0.05)
    new, _ = drawn(4000, 2, 0.5)
    rate = model.predict(new).unlike.mean()
    # Four standard deviations of both draws: of 2,000 items and of 4,000.
    assert rate == pytest.approx(
        0.05, abs=4 * np.sqrt(0.05 * 0.95 * (1 / 2000 + 1 / 4000))
    )
    far = np.random.default_rng(3).normal(size=(4000, WIDTH))
    assert model.predict(far.astype(np.float32)).unlike.mean() > 0.8
    centres, _ = drawn(100, 4, 0.0)
    assert model.predict(-centres).unlike.all()


def test_probabilities_hold_where_clusters_are_not_classes():
    model, features, classes, labels = fitted(0.4, apart=1.2)
    unlabeled = labels < 0
    found = model.predict(features)
    right = matched(found.clusters[unlabeled], classes[unlabeled])
    after = error(found.probability[unlabeled], right)
    plain = calibration.Calibration(model.calibration.temperature)
    scores = model._scorer(features).likelihoods
    before = error(plain.probability(scores)[unlabeled], right)
    assert after < 0.75 * before
    assert model.calibration.source == "known classes, hidden"


def test_the_threshold_counts_each_item_as_if_it_had_not_been_there():
    features, classes = drawn(60, 1, 0.4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centres = np.stack([unit[classes == one].mean(axis=0) for one in range(CLASSES)])
    distances = []
    for row in range(60):
        others = centres.copy()
        mates = (classes == classes[row]) & (np.arange(60) != row)
        if mates.any():
            others[classes[row]] = unit[mates].mean(axis=0)
            distances.append(np.min(np.sum((unit[row] - others) ** 2, axis=1)))
    by_hand = np.quantile(distances, 0.9, method="higher")
    found = calibration.threshold(features, classes, centres, 0.1)
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert calibration.threshold(features[:1], classes[:1] * 0, centres, 0.1) == np.inf


def test_classes_and_half_the_other_labels_are_hidden():
    labels = np.repeat(np.arange(-1, 8), 10)
    hidden = np.array([1, 5])
    left, kept = hiding._hidden(labels, hidden, np.random.default_rng(0))
    assert kept.tolist() == [0, 2, 3, 4, 6, 7]
    assert (left[~np.isin(labels, kept)] == -1).all()
    shown = left[np.isin(labels, kept)]
    assert (shown >= 0).sum() == 30
    assert set(shown[shown >= 0].tolist()) == set(range(6))
    assert (kept[left[left >= 0]] == labels[left >= 0]).all()


def test_few_known_classes_leave_the_softmax_as_it_is():
    assert made.predictor().calibration.source == "labeled items"
    assert made.predictor().calibration.slope == 1.0
    assert made.predictor("adapter").calibration.source == "the heads' own softmax"


def test_rows_that_take_part():
    labels = np.array([-1] * 50_000 + [0] * 30_000)
    rows = hiding._some(labels, np.random.default_rng(0))
    assert len(rows) == hiding._ROWS
    assert (labels[rows] >= 0).sum() == hiding._ROWS // 2
    assert hiding._some(labels[49_990:], np.random.default_rng(0)).size == hiding._ROWS


def test_the_discovery_s_own_probabilities_are_judged_anew():
    model, given = made.predictor("adapter"), made.discovered("adapter").assignment
    found = model.judged(clouds.features(), given)
    own = model.predict(clouds.features())
    same = own.clusters == given.clusters
    np.testing.assert_array_equal(found.probability[same], own.probability[same])
    assert found.assigned == given.assigned


def test_settings_of_a_backbone_that_has_a_name():
    found = made.discovered()
    model = prediction.fit_predictor(
        found.records,
        clouds.features(),
        found.assignment,
        found.centres,
        network=backbones.embeddings(8),
        settings=BackboneSettings(),
    )
    assert (model.backbone.name, model.backbone.fingerprint) == (
        "embeddings",
        "embeddings-8",
    )
    assert model.load_backbone().width == 8
