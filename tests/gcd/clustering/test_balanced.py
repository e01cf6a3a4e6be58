"""The stable assignment against sorting all pairs; bounds on the size of clusters."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagc_jax.gcd.clustering import _balanced, semi_supervised_kmeans
from tests.gcd.clustering.test_streamed import CLUSTERS, SIZE, cluster, problem


def greedy(distances, room):
    """All pairs in the order of distance, row, cluster."""
    room, choice = room.copy(), np.full(len(distances), -1)
    rows, clusters = np.indices(distances.shape)
    for pair in np.lexsort((clusters.ravel(), rows.ravel(), distances.ravel())):
        row, cluster_ = rows.ravel()[pair], clusters.ravel()[pair]
        if choice[row] < 0 and room[cluster_] > 0:
            choice[row] = cluster_
            room[cluster_] -= 1
    return choice


def candidates_of(distances, number):
    def candidates(rows, last_cost, last_row):
        own = distances[rows]
        takes = (own < last_cost) | ((own == last_cost) & (rows[:, None] < last_row))
        allowed = np.where(takes, own, np.inf)
        which = np.argsort(allowed, axis=1, kind="stable")[:, :number]
        return which, np.take_along_axis(allowed, which, axis=1)

    return candidates


@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 60),
    clusters=st.integers(1, 7),
    number=st.integers(1, 3),
    ties=st.booleans(),
)
def test_rounds_find_what_sorting_all_pairs_finds(seed, size, clusters, number, ties):
    random = np.random.default_rng(seed)
    distances = random.random((size, clusters)).astype(np.float32)
    if ties:
        distances = np.round(distances, 1)
    room = np.bincount(
        random.integers(0, clusters, size + random.integers(0, 4)), minlength=clusters
    )
    number = min(number, clusters)
    found = _balanced.stable(size, room, candidates_of(distances, number))
    np.testing.assert_array_equal(found, greedy(distances, room))


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_no_cluster_has_more_than_its_share(seed):
    rows, labels, labeled = problem(seed)
    found = cluster(rows, labels, labeled, seed, balanced=True)
    assigned = np.asarray(found.assignments)
    np.testing.assert_array_equal(assigned[labeled], labels[labeled])
    given_ = np.bincount(labels[labeled], minlength=CLUSTERS)
    counts = np.bincount(assigned, minlength=CLUSTERS)
    assert np.all(counts <= np.maximum(SIZE // CLUSTERS, given_))
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    distances = ((unit - np.asarray(found.centres)[assigned]) ** 2).sum()
    np.testing.assert_allclose(found.inertia, distances, rtol=1e-5)


def test_the_assignment_is_the_stable_one():
    rows, labels, labeled = problem(3)
    found = cluster(rows, labels, labeled, balanced=True)
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    distances = ((unit[:, None] - np.asarray(found.centres)) ** 2).sum(2)
    room = _balanced.room(SIZE, np.bincount(labels[labeled], minlength=CLUSTERS))
    np.testing.assert_array_equal(
        np.asarray(found.assignments)[~labeled], greedy(distances[~labeled], room)
    )


def test_a_class_with_more_labels_than_its_share_keeps_them():
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    labeled = np.arange(12) < 8
    found = semi_supervised_kmeans(
        jax.random.key(0), rows, 3, np.zeros(12, int), labeled, balanced=True
    )
    counts = np.bincount(found.assignments, minlength=3)
    assert counts[0] == 8
    assert counts[1:].max() <= 4


def test_inertia_never_rises():
    rows, labels, labeled = problem(5)
    inertia = [
        float(
            cluster(
                rows, labels, labeled, restarts=1, max_iterations=n, balanced=True
            ).inertia
        )
        for n in range(1, 8)
    ]
    assert np.all(np.diff(inertia) <= 0)


def test_not_inside_jit():
    rows, labels, labeled = problem(5)
    with pytest.raises(ValueError, match="balanced=True can't be used inside jit"):
        jax.jit(lambda rows: cluster(rows, labels, labeled, balanced=True))(rows)
