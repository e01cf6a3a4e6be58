"""The number of classes: found where it is plain, never from unlabeled rows' truth."""

import jax
import numpy as np
import pytest

from eagc_jax.gcd.clustering import estimate_num_classes, num_classes


def blobs(number, known, size=600):
    random = np.random.default_rng(number)
    classes = random.integers(0, number, size)
    rows = np.eye(16)[classes] + 0.1 * random.normal(size=(size, 16))
    labels = np.where((classes < known) & (random.random(size) < 0.5), classes, -1)
    return rows.astype(np.float32), labels


@pytest.mark.parametrize(
    "method", ["neighbours", "information", "accuracy", "stability"]
)
def test_separated_classes_are_counted(method):
    rows, labels = blobs(12, 6)
    found = estimate_num_classes(rows, labels, method=method)
    assert abs(found.number - 12) <= 2  # the numbers tried are 15 % apart
    assert found.low <= found.number <= found.high
    assert found.curve.shape[1] == 2
    assert found.curve[0, 0] == 6


def test_the_same_key_gives_the_same_and_a_sample_suffices(monkeypatch):
    rows, labels = blobs(12, 6)
    monkeypatch.setattr(num_classes, "_ROWS", 400)
    monkeypatch.setattr(num_classes, "_ROWS_PER_CLASS", 1)
    one, two = (
        estimate_num_classes(rows, labels, method="information", key=jax.random.key(5))
        for _ in range(2)
    )
    assert one[:3] == two[:3]
    np.testing.assert_array_equal(one.curve, two.curve)
    assert abs(one.number - 12) <= 2


def test_two_known_classes_and_bounds():
    rows, labels = blobs(5, 2)
    found = estimate_num_classes(rows, labels, minimum=3, maximum=9, method="accuracy")
    assert found.curve[[0, -1], 0].tolist() == [3, 9]


def test_of_neighbours_bounds_and_known_classes_hold():
    rows, labels = blobs(12, 6)
    found = estimate_num_classes(rows, labels, minimum=7, maximum=9)
    assert (found.low, found.high) == (9, 9) or 7 <= found.low <= found.high <= 9
    every = estimate_num_classes(rows, np.maximum(labels, 0) * 0 + np.arange(600) % 3)
    assert every[:3] == (3, 3, 3)
    one, two = (estimate_num_classes(rows, labels) for _ in range(2))
    assert one[:3] == two[:3]
    assert one.low <= 12 <= one.high


def test_trials_hide_each_class_once_and_renumber_the_others():
    labels = np.repeat(np.arange(-1, 9), 2)
    trials = num_classes._trials(np.random.default_rng(0), labels)
    hidden = np.stack([trial.hidden for trial in trials])
    np.testing.assert_array_equal(hidden.sum(axis=0), labels >= 0)
    for trial in trials:
        visible = trial.pinned >= 0
        assert not (visible & trial.hidden).any()
        assert set(trial.pinned[visible]) == set(range(len(set(labels[visible]))))


def test_accuracy_is_one_to_one():
    labels, clusters = np.array([0, 0, 0, 1, 1]), np.array([4, 4, 2, 4, 4])
    assert num_classes._accuracy(labels, clusters) == 3 / 5


def test_wrong_use_says_what_to_do():
    rows, labels = blobs(5, 4)
    with pytest.raises(ValueError, match="at least two known classes"):
        estimate_num_classes(rows, np.where(labels == 0, 0, -1))
    with pytest.raises(ValueError, match="method must be"):
        estimate_num_classes(rows, labels, method="knee")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="minimum must be at least the 4 known"):
        estimate_num_classes(rows, labels, minimum=2)
    with pytest.raises(ValueError, match="a quarter of the rows"):
        estimate_num_classes(rows, labels, maximum=400)
    with pytest.raises(ValueError, match="labels must be integers of shape"):
        estimate_num_classes(rows, labels[:3])
