"""benchmarks/aggregators.py runs and writes the rows that its text promises."""

import json
import sys

import numpy as np
import pytest

from benchmarks import aggregator_compile, aggregator_quality, aggregators, draws

KEYS = {
    "method",
    "num_objectives",
    "parameters",
    "seconds",
    "over_bound",
    "over_own_bound",
    "over_sum",
    "torchjd_seconds",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    target = tmp_path_factory.mktemp("benchmark") / "new" / "rows.json"
    arguments = ["--fast", "--rounds", "1", "--only", "upgrad", "--json", str(target)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aggregators", *arguments])
        patch.setattr(aggregators, "FAST_LAYOUT", {40: {"w": (3, 10), "b": (10,)}})
        aggregators.main()
    return json.loads(target.read_text())


def test_update_rows_have_the_promised_keys(rows):
    updates = [row for row in rows if "part" not in row]
    assert [set(row) for row in updates] == [KEYS]
    (row,) = updates
    assert (row["method"], row["num_objectives"], row["parameters"]) == (
        "upgrad",
        2,
        40,
    )
    assert min(row["seconds"], row["over_bound"], row["over_sum"]) > 0
    assert row["over_own_bound"] == row["over_bound"]  # it has no state of trees
    assert row["torchjd_seconds"] is None  # without --torchjd


def test_other_parts_are_flagged(rows):
    flagged = [row for row in rows if "part" in row]
    assert {row["part"] for row in flagged} == {"solve", "quality"}
    checks = {row["check"]: row for row in flagged if row["part"] == "quality"}
    assert set(checks) == {"worst cosine", "units", "bfloat16"}
    assert checks["worst cosine"]["value"] >= checks["worst cosine"]["goal"]
    assert checks["units"]["value"] <= checks["units"]["goal"]
    assert checks["bfloat16"]["value"] <= checks["bfloat16"]["goal"]


def test_own_bounds_count_copies_of_the_parameters():
    """For K = 2: each tree of K that an equation reads or writes, and the single ones."""
    assert {name: copies(2) for name, copies in aggregators.OWN_BOUNDS.items()} == {
        "moco": 11,  # g; g, Y -> Y; Y -> d
        "sam_gs": 11,  # g; g, M -> M; d, d -> d
        "gcond": 11,  # g, previous; g -> previous; m -> m, d
    }


@pytest.mark.slow
def test_compile_rows_are_those_of_the_sum_and_the_methods(
    monkeypatch, capsys, tmp_path
):
    target = tmp_path / "rows.json"
    arguments = ["--compile", "--fast", "--only", "eagc", "dwa", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", ["aggregators", *arguments])
    monkeypatch.setitem(aggregator_compile.LAYOUTS, "one leaf, 1e6", {"w": (3, 4)})
    aggregators.main()
    rows = json.loads(target.read_text())
    assert [row["method"] for row in rows] == ["sum", "eagc", "dwa"]
    assert rows[0]["over_sum"] == 0
    assert all(set(aggregator_compile.FORMATS) <= set(row) for row in rows)
    assert all(row["compile_seconds"] > 0 for row in rows)
    assert "over_sum" in capsys.readouterr().out
    assert {"gcond", "upgrad", "eagc"} <= set(aggregator_compile.methods())


def test_layouts_have_the_size_that_names_them():
    for size, shapes in {**aggregators.LAYOUTS, **aggregators.FAST_LAYOUT}.items():
        assert aggregators.count_parameters(shapes) == size


def test_every_method_of_the_tables_exists():
    for name in aggregators.ON_GRAM:
        assert hasattr(aggregators.aggregators, name), name
        assert hasattr(aggregators.weightings, name), name
    assert set(aggregator_quality.SCALED) <= set(aggregators.ON_GRAM)


def test_imbalanced_draws_have_the_ratio():
    rows = draws.imbalanced(np.random.default_rng(0), 5, 20, 1e4)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms.max() / norms.min(), 1e4, rtol=1e-12)


def test_least_norm_of_known_hulls():
    # Two orthogonal rows: 1/|d|^2 = 1/|a|^2 + 1/|b|^2; a hull that holds 0; one row.
    assert np.isclose(aggregator_quality.least_norm(np.diag([3.0, 4.0])), 2.4)
    opposed = np.array([[1.0, 0.0], [-2.0, 0.0]])
    assert aggregator_quality.least_norm(opposed) < 1e-12
    assert np.isclose(aggregator_quality.least_norm(np.array([[3.0, 4.0]])), 5.0)


def test_conflict_is_the_smallest_cosine():
    gradients = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    assert np.isclose(
        aggregator_quality.conflict(gradients, np.array([[3.0, -4.0]])), -0.8
    )
    assert aggregator_quality.conflict(gradients, np.zeros((1, 2))) == 0


def test_float64_conflict_free_meets_all_gradients_at_one_angle():
    gradients = np.random.default_rng(0).normal(size=(3, 50)) * [[1.0], [10.0], [0.1]]
    update = aggregator_quality.float64_conflict_free(gradients, chunk=7)
    along = gradients @ update / np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(along, along[0], rtol=1e-10)
    length = np.linalg.norm(update)
    np.testing.assert_allclose(length, np.sum(gradients @ update) / length, rtol=1e-10)
