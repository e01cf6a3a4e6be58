"""What strategies draw is what they say; nothing here compiles."""

import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import testing
from eagc_jax.testing import strategies

LIKE = {"w": np.zeros((2, 3), np.float32), "none": None, "b": np.zeros(2, jnp.bfloat16)}


def kinds(tree):
    return {type(node).__name__ for node in nodes(tree)}


def nodes(tree):
    yield tree
    inner = tree.values() if isinstance(tree, dict) else tree
    if isinstance(tree, dict | tuple):
        for node in inner:
            yield from nodes(node)


def some(strategy, holds):
    """That one with this is found."""
    settings = hypothesis.settings(
        max_examples=300,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],  # the first will do
    )
    hypothesis.find(strategy, holds, settings=settings)


@hypothesis.given(strategies.per_objective_updates())
def test_leaves_have_the_axis_of_the_objectives(updates):
    leaves = jax.tree.leaves(updates)
    assert leaves
    numbers = {leaf.shape[0] for leaf in leaves}
    assert len(numbers) == 1
    assert 1 <= numbers.pop() <= 16
    assert {str(leaf.dtype) for leaf in leaves} <= set(strategies.DTYPES)


@pytest.mark.parametrize("kind", ["NoneType", "Layer", "tuple", "dict"])
def test_trees_of_every_kind_are_drawn(kind):
    some(strategies.trees(), lambda tree: kind in kinds(tree["rest"]))


def test_scalars_empty_leaves_and_mixed_dtypes_are_drawn():
    def leaves(tree):
        return jax.tree.leaves(tree)

    some(strategies.trees(), lambda t: any(x.shape == () for x in leaves(t)))
    some(strategies.trees(), lambda t: any(x.size == 0 for x in leaves(t)))
    some(strategies.trees(), lambda t: len({x.dtype for x in leaves(t)}) > 1)


def drawn(word, number=3):
    return strategies.per_objective_updates(number, LIKE, hostile=[word])


@pytest.mark.parametrize(
    ("word", "holds"),
    {
        "scales": lambda w: np.max(np.abs(w)) > 1e12,
        "zero": lambda w: np.any(np.all(w == 0, axis=(1, 2))),
        "denormal": lambda w: np.any((np.abs(w) < 1e-38) & (w != 0)),
        "spike": lambda w: np.max(np.abs(w)) > 1e4,
        "nan": lambda w: np.any(np.isnan(w)),
        "inf": lambda w: np.any(w == np.inf),
        "-inf": lambda w: np.any(w == -np.inf),
        "equal": lambda w: np.array_equal(w[0], w[1]),
        "opposed": lambda w: np.array_equal(w[0], -w[1]) and np.any(w[0]),
        "low_rank": lambda w: np.linalg.matrix_rank(w.reshape(3, -1), tol=1e-5) == 1,
    }.items(),
)
def test_each_hostile_word_does_what_it_says(word, holds):
    some(drawn(word), lambda tree: bool(holds(tree["w"])))
    assert word in strategies.HOSTILE


def test_without_hostility_gradients_are_normal():
    @hypothesis.given(strategies.per_objective_updates(4, LIKE, hostile=()))
    def check(tree):
        assert tree["none"] is None
        assert tree["w"].shape == (4, 2, 3)
        assert tree["b"].dtype == jnp.bfloat16
        assert 0.1 < np.max(np.abs(tree["w"])) < 6
        assert strategies.finite_objectives(tree).tolist() == [True] * 4

    check()


def test_single_gradients_and_steps():
    @hypothesis.given(
        strategies.updates(LIKE),
        strategies.updates(LIKE, steps=2),
        strategies.per_objective_updates(st.just(3), LIKE, steps=2),
    )
    def check(one, steps, many):
        assert one["w"].shape == (2, 3)
        assert steps["w"].shape == (2, 2, 3)
        assert many["w"].shape == (2, 3, 2, 3)
        assert strategies.finite_objectives(many, steps=2).shape == (2, 3)

    check()


def test_who_is_finite():
    tree = {"a": np.ones((3, 2)), "b": np.array([1.0, np.nan, np.inf]), "none": None}
    assert strategies.finite_objectives(tree).tolist() == [True, False, False]


@hypothesis.given(strategies.gradient_matrices(3, "stationary"))
def test_stationary_matrices_are(matrix):
    """Some positive integers up to 3 bring the rows to zero."""
    assert matrix.shape == (3, 8)
    weights = np.stack(np.meshgrid([1, 2, 3], [1, 2, 3], [1]), -1).reshape(-1, 3)
    assert np.any(np.all(weights @ matrix == 0, axis=1))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="hostile must be words"):
        strategies.per_objective_updates(3, hostile=["evil"])
    with pytest.raises(ValueError, match="hostile must be words"):
        strategies.per_objective_updates(3, hostile="nan")
    with pytest.raises(ValueError, match="steps"):
        strategies.per_objective_updates(3, steps=0)


def test_importing_needs_no_hypothesis_and_the_package_does_not_import_this():
    code = """
import sys
sys.modules["hypothesis"] = sys.modules["chex"] = None
import eagc_jax
import eagc_jax.aggregators
assert "eagc_jax.testing" not in sys.modules
from eagc_jax import testing
import optax
testing.assert_transformation(optax.sgd(0.1), properties=["output", "state"])
testing.strategies.trees
try:
    testing.strategies.trees()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'eagc-jax[testing]'" in done.stdout, done.stderr
    assert testing.__doc__
