"""Each property of aggregators fails on an aggregator that breaks it, and says why."""

import sys
import typing

import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import aggregators, soft_gate, testing, weightings
from eagc_jax.testing._aggregation import of_transformation, of_weighting
from tests.testing.broken import AGGREGATORS, of_rows

NAMES = typing.get_args(testing.AggregatorProperty)


def test_the_zoo_has_every_property():
    assert set(AGGREGATORS) == set(NAMES) == set(testing.properties.PROPERTIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_one_fails_with_a_line_that_shows_it(name):
    def factory(number):
        return of_rows(AGGREGATORS[name])

    with pytest.raises(testing.PropertyError) as caught:
        testing.assert_aggregator(factory, 3, [name])
    error = caught.value
    assert error.property == name
    for part in (name, error.given, error.found, error.tolerance):
        assert part in str(error)
    # The line gives an input on which the property doesn't hold, and it is a short one.
    matrix = eval(error.given, {"np": np, "testing": testing})
    assert error.given.startswith("np.")
    found = testing.properties.PROPERTIES[name]
    aggregate = of_transformation(factory, len(matrix), {})
    with np.errstate(all="ignore"):
        assert found.check(aggregate, matrix, found.tolerance).found == error.found
    numbers = matrix[np.isfinite(matrix) & (matrix != 0)]
    assert numbers.size <= 8  # of 24: the others are zero, that is, don't matter


def test_the_sum_conflicts_on_the_simplest_input():
    """Two opposed gradients of one entry each: nothing simpler conflicts."""
    with pytest.raises(AssertionError) as caught:
        testing.assert_aggregator(of_rows(AGGREGATORS["non_conflicting"]), 2, NAMES[:1])
    matrix = eval(caught.value.given, {"np": np})
    assert np.count_nonzero(matrix) == 2
    assert set(np.abs(matrix).ravel()) <= {0, 1, 2}


def test_what_only_seeded_matrices_show_is_given_by_their_line():
    """Nothing is drawn here; wrong only where no entry is an integer."""

    def function(rows):
        fraction = jnp.any(rows * 64 != jnp.round(rows * 64))
        return jnp.where(fraction, -1.0, 1.0) * jnp.sum(rows, axis=0)

    with pytest.raises(testing.PropertyError) as caught:
        testing.assert_aggregator(of_rows(function), 2, ["descends"])
    error = caught.value
    assert error.given.startswith("testing.matrices.conflicting(np.random.default_rng(")
    matrix = eval(error.given, {"np": np, "testing": testing})
    assert matrix.shape == (2, 8)
    assert matrix.dtype == np.float32


def test_weights_are_looked_at_themselves():
    with pytest.raises(testing.PropertyError, match="least weight is") as caught:
        testing.assert_weighting(lambda g: jnp.array([1.0, -1e-9]), 2, NAMES)
    assert caught.value.property in ("nonnegative_weights", "non_conflicting")
    testing.assert_weighting(
        weightings.mean, 2, ["nonnegative_weights", "linear_under_scaling"]
    )
    answer = of_weighting(weightings.mean, 2)(np.eye(2, 8))
    np.testing.assert_array_equal(answer.weights, [0.5, 0.5])
    assert answer.size == 1.0


def test_a_larger_tolerance_is_taken():
    off = of_rows(lambda rows: jnp.sum(rows, axis=0) * 1.01)
    given = {"sum_for_one_objective": 0.02}
    testing.assert_aggregator(off, 1, ["sum_for_one_objective"], tolerances=given)
    with pytest.raises(testing.PropertyError, match=r"0\.01"):
        testing.assert_aggregator(off, 1, ["sum_for_one_objective"])


def test_arguments_are_checked():
    tx = aggregators.mean(2)
    with pytest.raises(ValueError, match=r"\['no_conflict'\].*non_conflicting"):
        testing.assert_aggregator(tx, 2, ["no_conflict"])
    with pytest.raises(ValueError, match="collection of names"):
        testing.assert_aggregator(tx, 2, "descends")
    with pytest.raises(ValueError, match="factory"):
        testing.assert_aggregator(tx, 2, ["sum_for_one_objective"])
    with pytest.raises(ValueError, match=r"reduce the objective axis.*kernel"):
        testing.assert_aggregator(soft_gate(2), 2)
    with pytest.raises(ValueError, match="num_objectives"):
        testing.assert_aggregator(tx, 0)
    with pytest.raises(ValueError, match="batch"):
        testing.assert_aggregator(tx, 2, batch=-1)


def test_without_hypothesis_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"pip install 'eagc-jax\[testing\]'"):
        testing.assert_aggregator(aggregators.mean(2), 2)
