"""Semi-supervised k-means against float64 loops, scikit-learn and its own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from eagc_jax.gcd.clustering import _lloyd, kmeans, semi_supervised_kmeans

SIZE, WIDTH, CLUSTERS = 60, 4, 5


def normalized(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def numpy_visit(unit, pinned, centres):
    """Row by row: cluster and squared distance."""
    assigned, distances = [], []
    for row, label in zip(unit, pinned, strict=True):
        to_each = [np.sum((row - centre) ** 2) for centre in centres]
        cluster = label if label >= 0 else int(np.argmin(to_each))
        assigned.append(cluster)
        distances.append(to_each[cluster])
    return np.array(assigned), np.array(distances)


def numpy_lloyd(unit, pinned, centres, iterations):
    """What each iteration should find, from the definition; stops when none improves."""
    centres = centres.copy()
    assigned, distances = numpy_visit(unit, pinned, centres)
    done = 0
    for _ in range(iterations):
        old = centres, assigned, distances
        centres = centres.copy()
        empty = [k for k in range(len(centres)) if not np.any(assigned == k)]
        for k in set(range(len(centres))) - set(empty):
            centres[k] = unit[assigned == k].mean(axis=0)
        open_distances = np.where(pinned < 0, distances, -1)
        if empty and open_distances.max() > 0:
            centres[empty[0]] = unit[np.argmax(open_distances)]
        assigned, distances = numpy_visit(unit, pinned, centres)
        done += 1
        if distances.sum() > old[2].sum():
            centres, assigned, distances = old
            break
        if distances.sum() == old[2].sum():
            break
    return assigned, centres, distances.sum(), done


def problem(seed, num_known=2, size=SIZE):
    """Overlapping directions; about half of the rows of the known classes labeled."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, CLUSTERS, size)
    rows = random.normal(size=(CLUSTERS, WIDTH))[classes]
    rows = rows + 0.4 * random.normal(size=(size, WIDTH))
    labeled = (classes < num_known) & (random.random(size) < 0.5)
    for known in range(num_known):  # at least one each
        labeled[np.argmax(classes == known)] = True
    return rows, np.where(labeled, classes, -1), labeled


def lloyd_from(unit, pinned, centres, iterations, tolerance=0.0):
    rows = _lloyd._in_blocks(unit, pinned, len(centres))
    return rows, _lloyd._lloyd(rows, centres, iterations, jnp.float32(tolerance))


jitted_lloyd = jax.jit(lloyd_from)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_iterations_match_float64_loops(seed, iterations):
    rows, pinned, _ = problem(seed)
    unit = normalized(rows)
    centres = np.random.default_rng(seed).normal(size=(CLUSTERS, WIDTH))
    centres[seed % CLUSTERS :] *= 9  # far off: empty at first, all but a few
    with jax.enable_x64(True):
        _, found = jitted_lloyd(unit, pinned, centres, iterations)
    assigned, centres, inertia, done = numpy_lloyd(unit, pinned, centres, iterations)
    np.testing.assert_array_equal(found.found.assignments.reshape(-1), assigned)
    # Sums of 60 float64 terms in another order.
    np.testing.assert_allclose(found.centres, centres, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.found.inertia, inertia, rtol=1e-12)
    # At the end rounding may see one fall more or less of the last digit.
    assert abs(int(found.iterations) - done) <= 1


def test_float32_iterations_match_too():
    rows, pinned, _ = problem(7)
    unit = normalized(rows)
    start = unit[:CLUSTERS]
    _, found = jitted_lloyd(unit.astype(np.float32), pinned, np.float32(start), 4)
    assigned, centres, inertia, _ = numpy_lloyd(unit, pinned, start, 4)
    np.testing.assert_array_equal(found.found.assignments.reshape(-1), assigned)
    # Means of a dozen rows of length one: a few times the rounding of float32.
    np.testing.assert_allclose(found.centres, centres, atol=1e-6)
    np.testing.assert_allclose(found.found.inertia, inertia, rtol=1e-6)


def test_blocks_with_filling_change_nothing(monkeypatch):
    rows, pinned, _ = problem(3)
    unit = normalized(rows).astype(np.float32)
    centres = 3 * unit[:CLUSTERS]
    whole_rows, whole = jitted_lloyd(unit, pinned, centres, 30)
    monkeypatch.setattr(_lloyd, "_BLOCK_ENTRIES", 7 * CLUSTERS)
    # A function of its own: the other's compilation knows the larger blocks.
    split_rows, split = jax.jit(lambda *a: lloyd_from(*a))(unit, pinned, centres, 30)
    assert whole_rows.real.shape == (1, 60)
    assert split_rows.real.shape == (9, 7)  # 63: three of filling
    np.testing.assert_array_equal(
        split.found.assignments.reshape(-1)[:SIZE], whole.found.assignments[0]
    )
    np.testing.assert_allclose(split.centres, whole.centres, atol=1e-6)
    np.testing.assert_allclose(split.found.inertia, whole.found.inertia, rtol=1e-6)
    assert split.found.counts.sum() == SIZE


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16))
def test_the_result_is_a_fixed_point_that_keeps_the_labels(seed):
    rows, labels, mask = problem(seed)
    found = semi_supervised_kmeans(
        jax.random.key(seed),
        rows.astype(np.float32),
        CLUSTERS,
        labels,
        mask,
        restarts=2,
        tolerance=0,
    )
    assert found.converged
    assert found.assignments.dtype == jnp.int32
    assigned = np.asarray(found.assignments)
    np.testing.assert_array_equal(assigned[mask], labels[mask])
    unit, centres = normalized(rows), np.asarray(found.centres, np.float64)
    for k in range(CLUSTERS):  # none is empty
        np.testing.assert_allclose(centres[k], unit[assigned == k].mean(0), atol=1e-6)
    distances = ((unit[:, None] - centres) ** 2).sum(2)
    chosen = distances[np.arange(SIZE), assigned]
    # Nearest, but for what rounds to a tie.
    assert np.all((chosen <= distances.min(1) + 1e-6)[~mask])
    np.testing.assert_allclose(found.inertia, chosen.sum(), rtol=1e-5)


def test_no_tolerance_ends_a_run_with_an_empty_cluster():
    rows, pinned, _ = problem(4)
    unit = normalized(rows).astype(np.float32)
    centres = unit[:CLUSTERS].copy()
    centres[2:] = 9 + np.arange(3)[:, None]  # three clusters that nobody is near to
    _, found = jitted_lloyd(unit, pinned, centres, 100, np.float32(1e9))
    assert found.iterations >= 3  # one each
    assert np.all(np.asarray(found.found.counts) > 0)


def test_known_centres_start_at_their_class_means():
    rows, labels, mask = problem(1, num_known=CLUSTERS)
    unit = normalized(rows)
    expected = np.stack(
        [unit[mask & (labels == k)].mean(axis=0) for k in range(CLUSTERS)]
    )

    @jax.jit
    def of_labels(rows, pinned):
        blocks = _lloyd._in_blocks(rows, pinned, CLUSTERS)
        return _lloyd._known_centres(blocks, CLUSTERS)

    known, centres = of_labels(np.float32(unit), np.where(mask, labels, -1))
    assert np.all(known)
    np.testing.assert_allclose(centres, expected, atol=1e-6)
    # With every class known nothing is random: the whole run has an oracle.
    found = semi_supervised_kmeans(
        jax.random.key(0), rows, CLUSTERS, labels, mask, restarts=2, tolerance=0
    )
    assigned, centres, inertia, _ = numpy_lloyd(
        unit, np.where(mask, labels, -1), expected, 200
    )
    np.testing.assert_array_equal(found.assignments, assigned)
    np.testing.assert_allclose(found.centres, centres, atol=1e-6)
    np.testing.assert_allclose(found.inertia, inertia, rtol=1e-5)


def blobs(seed, size=300):
    random = np.random.default_rng(seed)
    classes = random.permutation(np.arange(size) % 6)
    return np.eye(8)[classes] + 0.02 * random.normal(size=(size, 8)), classes


@pytest.fixture(scope="module")
def many_keys():
    """From one start each, so that luck among restarts can't help; jit and vmap."""
    rows, classes = blobs(0)
    mask = (classes < 3) & (np.arange(300) % 2 == 0)

    @jax.jit
    def cluster(keys, rows, labels):
        return jax.vmap(
            lambda key: semi_supervised_kmeans(key, rows, 6, labels, mask, restarts=1)
        )(keys)

    keys = jax.random.split(jax.random.key(1), 50)
    return classes, mask, cluster(keys, rows, np.where(mask, classes, -1))


def test_separated_blobs_are_recovered_from_every_start(many_keys):
    classes, mask, found = many_keys
    assert found.converged.all()
    for assigned in np.asarray(found.assignments):
        np.testing.assert_array_equal(assigned[mask], classes[mask])
        # One cluster per class, one class per cluster; known classes keep their number.
        pairs = {*zip(classes.tolist(), assigned.tolist(), strict=True)}
        assert len(pairs) == 6
        assert {(0, 0), (1, 1), (2, 2)} <= pairs


def test_starts_differ_with_the_key(many_keys):
    _, _, found = many_keys
    assert len(np.unique(np.asarray(found.assignments), axis=0)) == 6  # 3! orders


def test_the_same_key_gives_the_same_bits():
    rows, labels, mask = problem(5)
    first, second = (
        semi_supervised_kmeans(jax.random.key(3), rows, CLUSTERS, labels, mask)
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def hard_rows():
    return np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)


def test_inertia_never_rises(hard_rows):
    """No structure at all: many iterations, each with little to gain."""

    @jax.jit
    def run(limits):
        return jax.vmap(
            lambda limit: _lloyd.cluster(
                jax.random.key(0),
                hard_rows,
                np.full(400, -1),
                limit,
                jnp.float32(0),
                num_clusters=8,
                restarts=1,
            )
        )(limits)

    found = jax.device_get(run(np.arange(60)))
    inertia = np.asarray(found.inertia)
    steps = int(found.iterations[-1])
    assert 10 < steps < 59
    assert found.converged[-1]
    assert not found.converged[: steps - 1].any()
    np.testing.assert_array_equal(found.iterations, np.minimum(np.arange(60), steps))
    assert np.all(np.diff(inertia) <= 0)
    assert np.all(np.diff(inertia)[: steps - 2] < 0)
    unit = normalized(hard_rows.astype(np.float64))
    for assigned, centres, value in zip(
        *map(np.asarray, (found.assignments, found.centres, inertia)), strict=True
    ):
        exact = ((unit - centres[assigned]) ** 2).sum()
        np.testing.assert_allclose(value, exact, rtol=1e-6)


@pytest.mark.parametrize("structured", [True, False])
def test_inertia_is_no_worse_than_scikit_learn(structured, hard_rows):
    rows, number = (blobs(1)[0], 6) if structured else (hard_rows, 8)
    found = kmeans(jax.random.key(0), rows, number, restarts=10, tolerance=0)
    reference = KMeans(number, n_init=10, random_state=0).fit(normalized(rows))
    # Separated: both are the optimum. Without structure optima abound, a percent apart.
    margin = 1e-5 if structured else 1e-2
    assert found.inertia <= (1 + margin) * reference.inertia_


def test_the_best_restart_is_returned(hard_rows):
    single = [
        _lloyd.cluster(
            key,
            hard_rows,
            np.full(400, -1),
            jnp.int32(200),
            jnp.float32(0),
            num_clusters=8,
            restarts=restarts,
        ).inertia
        for key in jax.random.split(jax.random.key(0), 4)
        for restarts in (1, 10)
    ]
    one, ten = np.asarray(single).reshape(4, 2).T
    # Restart 0 of both is the same but for the rounding of products of another shape.
    assert np.all(ten <= one * (1 + 1e-6))
    assert np.any(ten < one * (1 - 1e-4))


def test_fewer_distinct_rows_than_clusters():
    """Nothing to seed with, nothing to divide by: three directions, five clusters."""
    rows = np.tile(np.eye(WIDTH)[:3], (20, 1))
    nobody = np.zeros(SIZE, bool)
    found = semi_supervised_kmeans(
        jax.random.key(0), rows, CLUSTERS, np.full(SIZE, -1), nobody, restarts=2
    )
    assert all(np.isfinite(x).all() for x in found)
    assert found.converged
    assert found.inertia < 1e-10
    assigned = np.asarray(found.assignments).reshape(20, 3)
    np.testing.assert_array_equal(assigned, np.tile(assigned[:1], (20, 1)))
    assert len(set(assigned[0])) == 3


def test_a_tie_goes_to_the_first_cluster():
    unit = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]], np.float32)
    centres = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)

    @jax.jit
    def visit(unit, centres):
        return _lloyd._visit(_lloyd._in_blocks(unit, jnp.full(3, -1), 2), centres)

    np.testing.assert_array_equal(visit(unit, centres).assignments, [[1, 0, 0]])


def test_lengths_of_rows_and_labels_of_unlabeled_rows_do_not_matter():
    rows, labels, mask = problem(2)
    rows = rows.astype(np.float32)
    arguments = (CLUSTERS, labels, mask)
    expected = semi_supervised_kmeans(jax.random.key(0), rows, *arguments)
    lengths = 2.0 ** np.random.default_rng(0).integers(-90, 90, (SIZE, 1))
    rescaled = semi_supervised_kmeans(
        jax.random.key(0), (rows * lengths).astype(np.float32), *arguments
    )
    jax.tree.map(np.testing.assert_array_equal, rescaled, expected)
    nonsense = semi_supervised_kmeans(
        jax.random.key(0), rows, CLUSTERS, np.where(mask, labels, 99), mask
    )
    jax.tree.map(np.testing.assert_array_equal, nonsense, expected)


def test_a_zero_row_stays_at_the_origin():
    rows, labels, mask = problem(2)
    rows[np.flatnonzero(~mask)[:3]] = 0
    found = semi_supervised_kmeans(jax.random.key(0), rows, CLUSTERS, labels, mask)
    assert all(np.isfinite(x).all() for x in found)


def test_everything_labeled_leaves_the_class_means():
    rows, classes = blobs(2)
    found = semi_supervised_kmeans(
        jax.random.key(0), rows, 6, classes, np.ones(300, bool), restarts=1
    )
    np.testing.assert_array_equal(found.assignments, classes)
    unit = normalized(rows)
    means = np.stack([unit[classes == k].mean(axis=0) for k in range(6)])
    np.testing.assert_allclose(found.centres, means, atol=1e-6)


def test_not_finite_rows_under_jit_still_end():
    """Values can't be checked there; the run must end and give valid numbers."""
    rows, labels, mask = problem(2)
    rows[3] = np.nan
    found = jax.jit(
        lambda rows: semi_supervised_kmeans(
            jax.random.key(0), rows, CLUSTERS, labels, mask, restarts=2
        )
    )(rows.astype(np.float32))
    assigned = np.asarray(found.assignments)
    assert ((assigned >= 0) & (assigned < CLUSTERS)).all()
    np.testing.assert_array_equal(assigned[mask], labels[mask])


def test_draws_follow_the_weights_and_never_take_a_weightless_row():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 6.0, 0.0], np.float32)
    draw = jax.jit(_lloyd._draw, static_argnums=2)
    drawn = np.asarray(draw(jax.random.key(0), weights, 20_000))
    shares = np.bincount(drawn, minlength=6) / len(drawn)
    assert shares[[0, 2, 5]].sum() == 0
    # Standard deviation at most sqrt(0.25 / 20000) = 0.0035; four of it.
    np.testing.assert_allclose(shares[[1, 3, 4]], [0.1, 0.3, 0.6], atol=0.014)


ROWS, LABELS = np.eye(6, dtype=np.float32), np.array([0, 0, 1, -1, -1, -1])
MASK = LABELS >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ROWS[0]}, r"features must have shape \(N, D\)"),
        ({"features": ROWS[:0]}, r"features must have shape \(N, D\)"),
        ({"features": ROWS.astype(int)}, "features must be floating"),
        ({"features": np.where(ROWS > 0, np.nan, ROWS)}, "finite, row 0 is not"),
        ({"labels": LABELS[:3]}, r"labels must have shape \(6,\)"),
        ({"labels": LABELS * 1.0}, "labels must be integers"),
        ({"labeled_mask": MASK.astype(int)}, "labeled_mask must be boolean"),
        ({"labeled_mask": MASK[:3]}, r"labeled_mask must have shape \(6,\)"),
        ({"labeled_mask": ~MASK}, r"labels must be in \[0, 4\).*got -1"),
        ({"labels": LABELS + 3}, r"labels must be in \[0, 4\).*got 4"),
        ({"labels": 2 * LABELS}, "class 1 has no labeled row, but class 2 has"),
        ({"num_clusters": 7}, "at least as many rows as num_clusters = 7, got 6"),
        ({"num_clusters": 6}, "leaves 3 unlabeled rows, fewer than the 4"),
        ({"num_clusters": 0}, "num_clusters must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
    ],
)
def test_wrong_use_names_the_argument(change, message):
    arguments = {
        "features": ROWS,
        "num_clusters": 4,
        "labels": LABELS,
        "labeled_mask": MASK,
    }
    with pytest.raises(ValueError, match=message):
        semi_supervised_kmeans(jax.random.key(0), **(arguments | change))
