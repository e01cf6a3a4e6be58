"""What an argument must be, and what is said where it isn't."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import _checks
from eagc_jax._checks import DECAY, NONNEGATIVE, POSITIVE, SHARE, Interval

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "sentence"),
    [
        (DECAY, [0, 0.5], [-0.1, 1, INF, NAN], "lie in [0, 1)"),
        (SHARE, [0, 0.5, 1], [-0.1, 1.1, INF, NAN], "lie in [0, 1]"),
        (NONNEGATIVE, [0, 1e9], [-1, INF, NAN], "be a finite number >= 0"),
        (POSITIVE, [1e-9, 1e9], [-1, 0, INF, NAN], "be positive and finite"),
        (Interval(0, INF), [0, INF], [-1, NAN], "be >= 0"),
        (Interval(0, INF, with_low=False), [1, INF], [0, NAN], "be > 0"),
        (Interval(0, 1, with_low=False), [1], [0, 1.1], "lie in (0, 1]"),
        (Interval(1, INF, with_high=False), [1], [0.9], "be a finite number >= 1"),
    ],
)
def test_intervals(interval, inside, outside, sentence):
    for value in inside:
        _checks.check_number("x", value, interval)
        _checks.check_number("x", np.float32(value), interval)
    for value in outside:
        message = re.escape(f"x must {sentence} (units), got {value!r}.")
        with pytest.raises(ValueError, match=message):
            _checks.check_number("x", value, interval, " (units)")


def test_several_numbers_are_not_one():
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\)"):
        _checks.check_number("x", np.zeros(2), DECAY)


@pytest.mark.parametrize("value", ["0.5", 0.5j, {}, [None]])
def test_what_is_no_number_lies_nowhere(value):
    with pytest.raises(ValueError, match=re.escape(f"got {value!r}.")):
        _checks.check_number("x", value, DECAY)


def test_what_is_not_known_is_not_checked():
    _checks.check_number("x", None, DECAY)
    _checks.check_number("x", lambda step: 2.0, DECAY)
    jax.jit(lambda x: _checks.check_number("x", x, DECAY))(2.0)
    jax.jit(lambda x: _checks.check_index("x", x, 2))(5)
    found = jax.jit(lambda x: _checks.check_weights(x, 2))(np.array([-1.0, 0.0]))
    np.testing.assert_array_equal(found, [-1, 0])


@pytest.mark.parametrize("value", [0, 1.0, "1", None])
def test_counts(value):
    _checks.check_count("every", 1, 1)
    with pytest.raises(ValueError, match=rf"every .* >= 1, got {value!r}\. So"):
        _checks.check_count("every", value, 1, " So")


def test_choices():
    _checks.check_choice("mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"mode must be one of \('a', 'b'\), got 'c'"):
        _checks.check_choice("mode", "c", ("a", "b"))


def test_vectors():
    one = _checks.check_vector("x", 2, 3)
    np.testing.assert_array_equal(one, [2, 2, 2])
    assert one.dtype == jnp.float32
    np.testing.assert_array_equal(_checks.check_vector("x", (1, -2), 2), [1, -2])
    for value in ((1.0, 2.0, 3.0), np.zeros((2, 1)), (1.0, NAN), INF):
        with pytest.raises(ValueError, match=r"x must be a number in \(-inf, inf\)"):
            _checks.check_vector("x", value, 2)
    with pytest.raises(ValueError, match=r"in \[0, 1\], or one for each of the 2"):
        _checks.check_vector("x", (0.5, 1.5), 2, SHARE)


@pytest.mark.parametrize("check", [_checks.check_weights, _checks.check_preference])
def test_weights_and_preferences_are_checked_alike(check):
    name = check.__name__.removeprefix("check_")
    np.testing.assert_array_equal(check(None, 2), [1, 1])
    np.testing.assert_array_equal(check((0, 3), 2), [0, 3])
    for value, message in (
        (1.0, r"each of the 2 objectives, shape \(2,\); got shape \(\)"),
        ((1.0, 1.0, 1.0), r"got shape \(3,\)"),
        ((1.0, -1.0), r"must be finite and >= 0, got \[1.0, -1.0\]"),
        ((1.0, NAN), "must be finite"),
        ((1.0, INF), "must be finite"),
        ((0.0, 0.0), "must not all be zero"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            check(value, 2)


def test_objectives_by_index():
    for index in (0, 1, np.int32(1), jnp.array(0)):
        _checks.check_index("current", index, 2)
    for index in (2, -1, 0.0, [0]):
        with pytest.raises(ValueError, match="current must be the index of one of"):
            _checks.check_index("current", index, 2)
    assert _checks.check_position("supervised", -1, 3) == 2
    for index in (3, -4):
        with pytest.raises(ValueError, match=f"objective {index}, but there are 3"):
            _checks.check_position("supervised", index, 3)
