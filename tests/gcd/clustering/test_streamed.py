"""Rows read in chunks: the same clusters as from rows on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagc_jax.gcd.clustering import (
    _chunks,
    _streamed,
    kmeans,
    semi_supervised,
    semi_supervised_kmeans,
)

SIZE, WIDTH, CLUSTERS = 90, 5, 6


def problem(seed):
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLUSTERS, SIZE)
    rows = random.normal(size=(CLUSTERS, WIDTH))[classes]
    rows = rows + 0.5 * random.normal(size=(SIZE, WIDTH))
    labeled = (classes < 3) & (random.random(SIZE) < 0.5)
    for known in range(3):
        labeled[np.argmax(classes == known)] = True
    return rows.astype(np.float32), np.where(labeled, classes, -1), labeled


def cluster(rows, labels, labeled, seed=0, **options):
    options = {"restarts": 3, "tolerance": 0.0} | options
    key = jax.random.key(seed)
    return semi_supervised_kmeans(key, rows, CLUSTERS, labels, labeled, **options)


@pytest.fixture
def streamed(monkeypatch):
    """Chunks of 17 rows, the last one filled up: 90 = 5 * 15 + 15."""
    monkeypatch.setattr(semi_supervised, "_WHOLE_ENTRIES", 0)
    monkeypatch.setattr(_chunks, "_CHUNK_ENTRIES", 17 * WIDTH)


def same(found, expected):
    np.testing.assert_array_equal(found.assignments, expected.assignments)
    # Sums of 90 rows in another order.
    np.testing.assert_allclose(found.centres, expected.centres, atol=2e-6)
    np.testing.assert_allclose(found.inertia, expected.inertia, rtol=2e-6)
    assert found.converged == expected.converged


@pytest.mark.parametrize("seed", range(3))
def test_chunks_change_nothing_but_rounding(seed, request, tmp_path):
    rows, labels, labeled = problem(seed)
    whole = cluster(rows, labels, labeled, seed)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    jax.tree.map(
        np.testing.assert_array_equal, cluster(mapped, labels, labeled, seed), whole
    )
    request.getfixturevalue("streamed")
    same(cluster(mapped, labels, labeled, seed), whole)
    same(cluster(jnp.asarray(rows), labels, labeled, seed), whole)


@pytest.mark.usefixtures("streamed")
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16))
def test_labels_stay_and_the_end_is_a_fixed_point(seed):
    rows, labels, labeled = problem(seed)
    found = cluster(rows, labels, labeled, seed)
    assigned = np.asarray(found.assignments)
    np.testing.assert_array_equal(assigned[labeled], labels[labeled])
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    centres = np.stack([unit[assigned == k].mean(0) for k in range(CLUSTERS)])
    np.testing.assert_allclose(found.centres, centres, atol=1e-6)
    distances = ((unit[:, None] - centres) ** 2).sum(2)
    chosen = distances[np.arange(SIZE), assigned]
    assert np.all((chosen <= distances.min(1) + 1e-6)[~labeled])
    np.testing.assert_allclose(found.inertia, chosen.sum(), rtol=1e-5)


@pytest.mark.usefixtures("streamed")
def test_inertia_never_rises_and_restarts_stop_apart():
    rows, labels, labeled = problem(4)
    steps = [
        cluster(rows, labels, labeled, restarts=1, max_iterations=number)
        for number in range(1, 12)
    ]
    inertia = [float(found.inertia) for found in steps]
    assert np.all(np.diff(inertia) <= 0)
    assert inertia[0] > inertia[-1]
    assert not steps[0].converged
    assert steps[-1].converged
    many = cluster(rows, labels, labeled, restarts=4)
    assert float(many.inertia) <= inertia[-1] * (1 + 1e-6)


@pytest.mark.usefixtures("streamed")
def test_many_rows_are_seeded_from_a_sample(monkeypatch):
    """The sample is of unlabeled rows, differs with the key, and finds the blobs."""
    monkeypatch.setattr(_streamed, "_SEED_ROWS", 0)  # 16 for each cluster remain
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 200)
    rows = np.eye(WIDTH)[classes] + 0.02 * random.normal(size=(200, WIDTH))
    labeled = (classes == 0) & (np.arange(200) % 2 == 0)
    found = semi_supervised_kmeans(
        jax.random.key(0), rows.astype(np.float32), 3, classes, labeled
    )
    assigned = np.asarray(found.assignments)
    assert len({*zip(classes.tolist(), assigned.tolist(), strict=True)}) == 3
    pinned = np.where(labeled, 0, -1)
    one, two = (_streamed._sampled(jax.random.key(k), pinned, 48) for k in range(2))
    assert len(set(one)) == len(set(two)) == 48
    assert set(one) != set(two)
    assert not labeled[one].any()
    assert np.all(np.diff(one) > 0)


@pytest.mark.usefixtures("streamed")
def test_half_precision_rows_and_extreme_lengths():
    rows, labels, labeled = problem(1)
    half = rows.astype(np.float16)
    same(
        cluster(half, labels, labeled),
        cluster(half.astype(np.float32), labels, labeled),
    )
    lengths = 2.0 ** np.random.default_rng(0).integers(-90, 90, (SIZE, 1))
    same(
        cluster((rows * lengths).astype(np.float32), labels, labeled),
        cluster(rows, labels, labeled),
    )


@pytest.mark.usefixtures("streamed")
def test_a_row_that_is_not_finite_is_named():
    rows, labels, labeled = problem(1)
    rows[40, 2] = np.nan
    rows[70, 1] = np.inf
    with pytest.raises(ValueError, match="row 40 is not; 2 of 90"):
        cluster(rows, labels, labeled)


@pytest.mark.usefixtures("streamed")
def test_without_labels():
    rows, _, _ = problem(2)
    found = kmeans(jax.random.key(0), rows, CLUSTERS)
    assert set(np.unique(found.assignments)) == set(range(CLUSTERS))
