"""What lies next to labeled items: the labeled share, and how many classes have room."""

import numpy as np
import pytest

from eagc_jax.gcd.clustering import composition, labeled_share


def clouds(number=20, known=10, share=0.5, each=60, noise=0.25, seed=0):
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(number), each)
    rows = np.eye(number)[truth] + noise * random.normal(size=(len(truth), number))
    labels = np.where((truth < known) & (random.random(len(truth)) < share), truth, -1)
    return rows.astype(np.float32), labels, (labels >= 0).sum() / (truth < known).sum()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("known", [5, 15, 20])
def test_the_labeled_share_is_found(share, known):
    rows, labels, true = clouds(known=known, share=share)
    assert labeled_share(rows, labels) == pytest.approx(true, abs=0.06)


def test_classes_of_few_items_are_not_taken_for_fuller_ones():
    """Next to one of four labeled items of eight are three of the other seven."""
    found = [clouds(each=8, noise=0.1, seed=seed) for seed in range(8)]
    error = [labeled_share(rows, labels) - true for rows, labels, true in found]
    assert abs(np.mean(error)) < 0.03


def test_the_labeled_share_of_noise_is_possible():
    rows, labels, _ = clouds()
    rows = np.random.default_rng(1).normal(size=rows.shape)
    assert np.mean(labels >= 0) <= labeled_share(rows, labels) <= 1
    assert labeled_share(rows, np.zeros(len(rows), int)) == 1
    assert labeled_share(rows, np.minimum(labels, 0)) == np.mean(labels >= 0)


def test_sizes_of_rows_play_no_part():
    rows, labels, _ = clouds()
    scale = np.random.default_rng(0).uniform(1e-3, 1e3, size=(len(rows), 1))
    same = labeled_share(rows * scale * 1e20, labels)
    assert same == pytest.approx(labeled_share(rows, labels), abs=1e-6)


def test_a_sample_of_many_rows_suffices(monkeypatch):
    monkeypatch.setattr(composition, "_ROWS", 700)
    monkeypatch.setattr(composition, "_ROWS_PER_CLASS", 1)
    monkeypatch.setattr(composition, "_QUERIES", 150)
    rows, labels, true = clouds()
    found = composition.composition(rows, labels)
    assert found.items == 700
    assert found.unlabeled.max() <= 5
    assert labeled_share(rows, labels) == pytest.approx(true, abs=0.1)


def test_the_likelihood_is_largest_where_the_share_says():
    rows, labels, _ = clouds()
    found = composition.composition(rows, labels)
    tried = np.arange(10, 60)
    curve = composition.likelihood(found, tried)
    labeled = found.labeled.sum()
    number = 10 * found.items * labeled_share(rows, labels) / labeled
    assert abs(tried[curve.argmax()] - number) <= 1
    finite = curve[np.isfinite(curve)]
    assert (np.diff(finite[: finite.argmax()]) > 0).all()
    assert (np.diff(finite[finite.argmax() :]) < 0).all()


def test_classes_of_other_sizes_widen_the_interval():
    def width(sizes):
        random = np.random.default_rng(0)
        truth = np.repeat(np.arange(20), sizes)
        rows = np.eye(20)[truth] + 0.1 * random.normal(size=(len(truth), 20))
        known = (truth % 2 == 0) & (random.random(len(truth)) < 0.5)
        labels = np.where(known, truth // 2, -1)
        drawn = composition.numbers(
            composition.composition(rows, labels), np.random.default_rng(0)
        )
        return np.subtract(*np.quantile(drawn, [0.95, 0.05]))

    assert width([40] * 20) < 0.7 * width([10, 10, 70, 70] * 5)
