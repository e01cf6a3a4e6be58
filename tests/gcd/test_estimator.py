"""The estimator: scikit-learn's conventions, and scikit-learn's own checks."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from eagc_jax.gcd import CategoryDiscovery
from tests.gcd import clouds
from tests.gcd.prediction import made

FAILS: dict[str, str] = {}


@pytest.mark.slow
@parametrize_with_checks(
    [CategoryDiscovery(num_classes=3, restarts=1)],
    expected_failed_checks=lambda estimator: FAILS,
)
@pytest.mark.filterwarnings("default")
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def integers():
    classes = {name: number for number, name in enumerate(clouds.CLASSES)}
    return np.array(
        [classes.get(name, -1) + 3 * (name != "") for name in clouds.labels()]
    )


def test_it_is_the_discovery():
    found = CategoryDiscovery(num_classes=4).fit(clouds.features(), clouds.labels())
    given = made.discovered()
    assert found.labels_.tolist() == given.assignment.assigned
    assert found.classes_.tolist() == ["apple", "banana", "novel-1", "novel-2"]
    assert (found.n_classes_, found.n_features_in_) == (4, 8)
    np.testing.assert_array_equal(found.cluster_centers_, given.centres)
    unlabeled = ~given.records.labeled_mask
    predicted = found.predict(clouds.features())
    assert (predicted[unlabeled] == found.labels_[unlabeled]).all()


def test_integers_strings_and_none_are_the_same_labels():
    text = CategoryDiscovery(num_classes=4).fit_predict(
        clouds.features(), [name or None for name in clouds.labels()]
    )
    found = CategoryDiscovery(num_classes=4).fit(clouds.features(), integers())
    assert found.classes_.tolist() == [3, 4, 5, 6]
    names = np.array(["apple", "banana", "novel-1", "novel-2"])
    np.testing.assert_array_equal(names[found.labels_ - 3], text)
    assert found.labels_.dtype == found.predict(clouds.features()).dtype == np.int64


def test_probabilities_have_the_prediction_s_on_top():
    found = CategoryDiscovery(num_classes=4).fit(clouds.features(), integers())
    rows = np.random.default_rng(0).normal(size=(50, 8))
    probability = found.predict_proba(rows)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(
        found.classes_[probability.argmax(axis=1)], found.predict(rows)
    )
    top = found.discovery_.predictor.predict(rows.astype(np.float32)).probability
    np.testing.assert_allclose(
        probability.max(axis=1), np.maximum(top, 0.25), rtol=1e-5
    )


def test_without_labels_it_is_k_means():
    found = CategoryDiscovery(num_classes=4).fit(clouds.features())
    assert found.classes_.tolist() == [0, 1, 2, 3]
    pairs = set(zip(found.labels_.tolist(), clouds.truth().tolist(), strict=True))
    assert len(pairs) == 4
    assert np.bincount(found.labels_).tolist() == [14, 12, 12, 10]
    assert found.discovery_.predict(clouds.features()).nearest_labeled == [""] * 48


def test_all_labeled_and_the_number_of_classes_left_open():
    names = np.array(clouds.CLASSES)[clouds.truth()]
    found = CategoryDiscovery().fit(clouds.features(), names)
    assert found.labels_.tolist() == names.tolist()
    assert found.predict(clouds.features()).tolist() == names.tolist()


def test_it_trains_and_is_pickled():
    model = CategoryDiscovery(num_classes=4, training=made.RUNS["adapter"])
    found = clone(model).fit(clouds.features(), clouds.labels())
    assert found.discovery_.training is not None
    again = pickle.loads(pickle.dumps(found.discovery_.predictor))
    rows = clouds.features()
    assert made.same(again.predict(rows), found.discovery_.predictor.predict(rows))


WRONG = [
    ({}, None, "num_classes is needed without labels"),
    ({"num_classes": 1.5}, "labels", "num_classes must be an integer"),
    ({"num_classes": 1}, "labels", r"num_classes must be in \[2, "),
    ({"num_classes": 4, "training": "yes"}, "labels", "training must be None"),
    ({"num_classes": 4}, np.zeros(3), r"y must have shape \(48,\)"),
    ({"num_classes": 4}, np.full(48, 0.5), "y must hold integers"),
]


@pytest.mark.parametrize(("parameters", "y", "message"), WRONG)
def test_what_cannot_be(parameters, y, message):
    labels = clouds.labels() if isinstance(y, str) else y
    with pytest.raises(ValueError, match=message):
        CategoryDiscovery(**parameters).fit(clouds.features(), labels)


def test_numbers_that_are_too_large_for_float32():
    with pytest.raises(ValueError, match=r"up to 3\.4e38"):
        CategoryDiscovery(num_classes=2).fit([[1e300, 1.0], [1.0, 2.0], [2.0, 1.0]])
