"""What counts as the same numbers."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import testing
from eagc_jax.testing.transformations.comparing import differing_numbers


class State(NamedTuple):
    mean: jnp.ndarray
    residual: jnp.ndarray


@pytest.mark.parametrize("kind", [lambda *x: State(*x), lambda *x: {"residual": x[1]}])
def test_rounding_errors_are_compared_in_shape_alone(kind):
    expected, found = kind(jnp.ones(2), jnp.zeros(3)), kind(jnp.ones(2), jnp.ones(3))
    wrong = differing_numbers(expected, found, 1e-4, "state")
    assert wrong is not None
    assert "residual" in wrong.found
    assert differing_numbers(expected, found, 1e-4, "state", ["residual"]) is None
    other = kind(jnp.ones(2), jnp.ones(4))
    wrong = differing_numbers(expected, other, 1e-4, "state", ["residual"])
    assert wrong is not None
    assert "shape" in wrong.found


def test_other_leaves_are_still_compared():
    expected, found = State(jnp.ones(2), jnp.ones(3)), State(jnp.zeros(2), jnp.ones(3))
    wrong = differing_numbers(expected, found, 1e-4, "state", ["residual"])
    assert wrong is not None
    assert "mean" in wrong.found


def test_what_cancels_may_be_off_by_a_rounding_of_the_largest():
    size = 64.0
    off = {"a": np.float32(size), "b": np.float32(0.9 * size * 2**-23)}
    expected = {"a": np.float32(size), "b": np.float32(0)}
    assert differing_numbers(expected, off, 1e-4, "updates") is not None
    assert differing_numbers(expected, off, 1e-4, "updates", alike=True) is None
    off["b"] = np.float32(1.1 * size * 2**-23)
    assert differing_numbers(expected, off, 1e-4, "updates", alike=True) is not None


def test_one_name_is_no_collection():
    with pytest.raises(ValueError, match="rounding must be a collection"):
        testing.assert_transformation(optax.sgd(0.1), rounding="residual")
