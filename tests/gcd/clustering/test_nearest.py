"""Distances, margins and probabilities against float64; the temperature's minimum."""

import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax.gcd.clustering import _chunks, assign, fit_temperature

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(50, 6)).astype(np.float32)
CENTRES = (RANDOM.normal(size=(7, 6)) / 3).astype(np.float32)


def float64_distances(rows, centres):
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return ((unit[:, None] - centres.astype(np.float64)) ** 2).sum(2)


@pytest.mark.parametrize("entries", [2**23, 6 * 9])
def test_against_float64(monkeypatch, entries, tmp_path):
    monkeypatch.setattr(_chunks, "_CHUNK_ENTRIES", entries)
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    found = assign(mapped, CENTRES, temperature=0.3)
    distances = float64_distances(ROWS, CENTRES)
    ordered = np.sort(distances, axis=1)
    np.testing.assert_array_equal(found.clusters, distances.argmin(axis=1))
    # Six float32 terms of order one.
    np.testing.assert_allclose(found.distances, ordered[:, 0], atol=2e-6)
    np.testing.assert_allclose(found.margins, ordered[:, 1] - ordered[:, 0], atol=4e-6)
    shares = np.exp(-(distances - ordered[:, :1]) / 0.3)
    # An error of 4e-6 in a distance is one of 4e-6 / 0.3 in a logarithm.
    np.testing.assert_allclose(found.probabilities, 1 / shares.sum(axis=1), rtol=3e-5)


def test_one_centre():
    found = assign(ROWS, CENTRES[:1])
    assert np.all(found.clusters == 0)
    assert np.all(np.isinf(found.margins))
    assert np.all(found.probabilities == 1)


def test_a_tie_goes_to_the_first_and_has_no_margin():
    found = assign(ROWS[:1], np.repeat(CENTRES[:1], 2, axis=0))
    assert found.clusters == 0
    assert found.margins == 0
    np.testing.assert_allclose(found.probabilities, 0.5)


def test_the_temperature_is_the_likeliest_of_a_grid():
    classes = np.arange(60) % 4
    random = np.random.default_rng(1)
    rows = np.eye(6)[classes] + 0.5 * random.normal(size=(60, 6))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centres = np.stack([unit[classes == k].mean(axis=0) for k in range(4)])
    labels = np.where(classes < 2, classes, -1)
    found = fit_temperature(rows.astype(np.float32), centres, labels, classes)
    labeled = np.flatnonzero(labels >= 0)
    distances = float64_distances(rows[labeled], centres)
    for place, row in enumerate(labeled):  # its own centre without it
        mates = (classes == classes[row]) & (np.arange(60) != row)
        own = unit[mates].mean(axis=0)
        distances[place, classes[row]] = ((unit[row] - own) ** 2).sum()

    def loss(temperature):
        scaled = -distances / temperature
        own = scaled[np.arange(len(labeled)), labels[labeled]]
        return np.mean(np.log(np.exp(scaled).sum(axis=1)) - own)

    grid = np.geomspace(0.01, 5, 400)
    best = grid[np.argmin([loss(t) for t in grid])]
    np.testing.assert_allclose(found, best, rtol=0.02)  # the grid's steps are 1.6 %


def test_labels_that_say_nothing_leave_the_default():
    nobody = np.full(50, -1)
    assert fit_temperature(ROWS, CENTRES, nobody, np.zeros(50, int)) == 0.1
    one = np.where(np.arange(50) == 3, 0, -1)  # no companion
    assert fit_temperature(ROWS, CENTRES, one, np.where(one == 0, 0, 1)) == 0.1


def test_wrong_use_names_the_argument():
    with pytest.raises(ValueError, match=r"centres must have shape \(K, 6\)"):
        assign(ROWS, CENTRES[:, :3])
    with pytest.raises(ValueError, match="temperature must be positive"):
        assign(ROWS, CENTRES, temperature=0)
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\)"):
        assign(jnp.zeros(3), CENTRES)
    bad = ROWS.copy()
    bad[7, 0] = np.nan
    with pytest.raises(ValueError, match="row 7 is not"):
        assign(bad, CENTRES)
    with pytest.raises(ValueError, match=r"labels must have shape \(50,\)"):
        fit_temperature(ROWS, CENTRES, np.zeros(3, int), np.zeros(50, int))
