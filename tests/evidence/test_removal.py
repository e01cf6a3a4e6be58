"""What removing conflicts gains, against a closed form."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.evidence.removal import removal
from benchmarks.evidence.task import Task

RATE, LARGE = 0.01, 10.0


def straight(first, second):
    """Two losses that are linear: their gradients are the same everywhere."""
    lines = jnp.asarray([first, second], jnp.float32)

    def losses(params, draw):
        both = draw.data * (LARGE + lines @ params)
        return both[0], both[1]

    return Task(
        "physics",
        "straight",
        ("first", "second"),
        lambda key, data: jnp.zeros(2),
        losses,
        lambda params, data: {"error": data},
        3,
        jnp.ones(()),
        lambda steps: optax.sgd(RATE),
    )


def test_a_step_of_two_straight_lines():
    a, b = np.array([1.0, 0.2]), np.array([-3.0, 1.0])
    projected = a + b - a @ b * (b / (b @ b) + a / (a @ a))  # each without the other
    of_sum, removed = (-RATE * np.array([a, b]) @ d for d in (a + b, projected))
    # One step from 0, where both losses are 10: their changes over 10 are relative.
    expected = (of_sum - removed).sum() / np.abs(of_sum).sum()
    found = removal(straight(a, b), 0, steps=1, draws=2)
    # float32: losses of 10 are rounded to 1e-6, changes are 1e-2 and more.
    assert found == pytest.approx(expected, abs=3e-4)


def test_nothing_is_removed_where_nothing_conflicts():
    assert removal(straight([1.0, 0.0], [1.0, 1.0]), 0, steps=3) == 0
