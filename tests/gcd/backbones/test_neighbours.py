"""The neighbour table against float64 NumPy, with ties, in blocks, and cached."""

import numpy as np
import pytest

from eagc_jax.gcd.backbones import neighbours

room = neighbours.__globals__


def oracle(features, k):
    """All cosines by float64; equal ones by row."""
    features = np.asarray(features, np.float64)
    lengths = np.sqrt((features**2).sum(axis=1))
    lengths[lengths == 0] = 1
    # Row after row: the sum's order, and so its last bit, does not depend on where.
    products = np.array([(features * one).sum(axis=1) for one in features])
    similar = products / np.outer(lengths, lengths)
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, :k].astype(np.int32)


def normal(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("block", [None, 1, 13, 100])
def test_against_float64(block, dtype):
    features = normal(60, 24).astype(dtype)
    found = neighbours(features, 5, block=block)
    np.testing.assert_array_equal(found, oracle(features, 5))
    assert found.dtype == np.int32


@pytest.mark.parametrize("k", [1, 10, 11, 19])
def test_as_many_as_there_are(k):
    features = normal(20, 3)
    np.testing.assert_array_equal(neighbours(features, k), oracle(features, k))


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_lower_row(seed):
    """Signs: products are integers, many are equal, and all are exact."""
    features = np.sign(normal(120, 6, seed))
    np.testing.assert_array_equal(neighbours(features, 4), oracle(features, 4))


@pytest.mark.parametrize("width", [1, 7, 33])
def test_copies_scaled_copies_and_zeros(width):
    """More copies of a row than there are spare candidates."""
    features = normal(80, width)
    features[10:40] = features[9]
    features[50:60] = 2 * features[9]
    features[70:] = 0
    np.testing.assert_array_equal(neighbours(features, 3), oracle(features, 3))


def test_differences_that_float32_does_not_see():
    """Rows in a cone so narrow that the float32 cosines are all about one."""
    features = 1.0 + 1e-4 * normal(300, 8).astype(np.float64)
    found = neighbours(features, 3, block=64)
    np.testing.assert_array_equal(found, oracle(features, 3))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit.astype(np.float32) @ unit.astype(np.float32).T
    np.fill_diagonal(similar, -1)
    rough = np.argsort(-similar, axis=1, kind="stable")[:, :3]
    assert (rough != found).any()  # so the second look is needed


def test_candidates_lost_by_float32_are_found(monkeypatch):
    monkeypatch.setitem(room, "_SPARE", 0)
    features = 1.0 + 1e-4 * normal(100, 8).astype(np.float64)
    np.testing.assert_array_equal(neighbours(features, 3), oracle(features, 3))


def test_blocks_hold_as_many_similarities_as_allowed(monkeypatch):
    monkeypatch.setitem(room, "_BLOCK_ENTRIES", 1000)
    sizes = []
    candidates = room["_candidates"]

    def noted(unit, start, *, count, size):
        sizes.append(size)
        return candidates(unit, start, count=count, size=size)

    monkeypatch.setitem(room, "_candidates", noted)
    features = normal(90, 4)
    np.testing.assert_array_equal(neighbours(features, 2), oracle(features, 2))
    assert sizes == [1000 // 90] * 9  # the last block overlaps the one before


def test_the_table_is_kept_by_content_and_k(tmp_path, monkeypatch):
    features = normal(30, 4)
    np.save(tmp_path / "features.npy", features)
    first = neighbours(features, 3, cache=tmp_path)
    made = []
    monkeypatch.setitem(
        room, "_neighbours", lambda *a: made.append(1) or np.zeros((30, 3), np.int32)
    )
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(neighbours(mapped, 3, cache=tmp_path), first)
    assert not made
    neighbours(mapped, 2, cache=tmp_path)
    neighbours(features[::-1], 3, cache=tmp_path)
    neighbours(features.reshape(20, 6), 3, cache=tmp_path)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("shape", "k", "options", "message"),
    [
        ((5, 2), 0, {}, "got shape .5, 2. and k = 0"),
        ((5, 2), 5, {}, "k in .1, N., got"),
        ((5,), 1, {}, "features must be .N, D."),
        ((5, 2), 1, {"block": 0}, "block must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(shape, k, options, message):
    with pytest.raises(ValueError, match=message):
        neighbours(np.ones(shape), k, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite(value):
    features = normal(5, 2)
    features[3, 1] = value
    with pytest.raises(ValueError, match="row 3 isn't"):
        neighbours(features, 1)
