"""Stacking, splitting and summing over the objective axis, against NumPy."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eagc_jax import (
    assess_energy,
    stack_objectives,
    sum_objectives,
    unstack_objectives,
)
from eagc_jax.objectives import named_leaves

numbers = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


def arrays(*shape, dtype=np.float32):
    return hnp.arrays(dtype, shape, elements=numbers)


def assert_same(left, right):
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_array_equal(a, b)


def reduce(updates, weights=None):
    tx = sum_objectives(weights)
    return tx.update(updates, tx.init(None))[0]


# --- stacking -----------------------------------------------------------------------


@given(st.lists(st.tuples(arrays(2, 3), arrays()), min_size=3, max_size=3))
def test_unstacking_undoes_stacking(pairs):
    trees = [{"w": w, "none": None, "inner": [b]} for w, b in pairs]
    stacked = stack_objectives(trees)
    assert stacked["w"].shape == (3, 2, 3)
    assert stacked["inner"][0].shape == (3,)
    for tree, again in zip(trees, unstack_objectives(stacked), strict=True):
        assert_same(again, tree)


@given(arrays(3, 2))
def test_stacking_undoes_unstacking(leaf):
    updates = {"w": jnp.asarray(leaf)}
    assert_same(stack_objectives(unstack_objectives(updates)), updates)


def test_dicts_of_trees_are_in_the_order_of_their_names():
    trees = {"b": {"w": np.float32(2)}, "a": {"w": np.float32(1)}}
    stacked = stack_objectives(trees)
    assert stacked["w"].tolist() == [1.0, 2.0]
    assert_same(unstack_objectives(stacked, names=sorted(trees)), trees)


def test_stacking_keeps_dtypes():
    tree = {"half": np.ones(2, jnp.bfloat16), "whole": np.ones(2, np.float32)}
    stacked = stack_objectives([tree, tree])
    assert stacked["half"].dtype == jnp.bfloat16
    assert stacked["whole"].dtype == jnp.float32


def test_stacking_and_unstacking_under_jit():
    trees = [{"w": np.arange(3, dtype=np.float32) + k} for k in range(2)]
    assert_same(jax.jit(stack_objectives)(trees), stack_objectives(trees))
    updates = stack_objectives(trees)
    assert_same(jax.jit(unstack_objectives)(updates), unstack_objectives(updates))


def test_leaves_are_named_by_their_paths():
    Pair = collections.namedtuple("Pair", "left right")
    tree = {"layers": [Pair(np.ones(1), None), {"kernel": np.ones(1)}]}
    assert list(named_leaves(tree)) == ["layers/0/left", "layers/1/kernel"]
    assert list(named_leaves(np.ones(1))) == ["params"]


def test_two_leaves_of_one_name_are_kept_apart():
    tree = {"a": {"b": np.zeros(1)}, "a/b": np.ones(1)}
    named = named_leaves(tree)
    assert len(named) == 2
    assert sorted(float(leaf[0]) for leaf in named.values()) == [0.0, 1.0]


# --- summing ------------------------------------------------------------------------


@given(
    arrays(3, 2, 4),
    hnp.arrays(np.float32, (3,), elements=st.floats(0, 10, width=32)),
)
def test_sum_is_the_float64_sum(leaf, weights):
    found = reduce({"w": jnp.asarray(leaf)})["w"]
    wide = leaf.astype(np.float64)
    bound = 4 * np.finfo(np.float32).eps
    error = np.abs(found - wide.sum(axis=0))
    assert np.all(error <= bound * np.abs(wide).sum(axis=0))
    if weights.any():
        found = reduce({"w": jnp.asarray(leaf)}, weights)["w"]
        terms = wide * weights[:, None, None].astype(np.float64)
        assert np.all(
            np.abs(found - terms.sum(axis=0)) <= bound * np.abs(terms).sum(axis=0)
        )


@pytest.mark.parametrize("number", [1, 2, 16, 17, 40])
def test_sum_of_any_number_of_objectives(number):
    leaf = np.random.default_rng(0).normal(size=(number, 3)).astype(np.float32)
    weights = np.linspace(0, 1, number) if number > 1 else np.ones(1)
    expected = weights @ leaf.astype(np.float64)
    np.testing.assert_allclose(reduce(leaf, weights), expected, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(reduce(leaf), leaf.sum(0), rtol=2e-6, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    # Added one by one in bfloat16, each 1 is rounded away from 256: the sum is 256.
    leaf = jnp.array([256.0] + [1.0] * 8, jnp.bfloat16)[:, None]
    found = reduce(leaf)
    assert found.dtype == jnp.bfloat16
    assert float(found[0]) == 264.0


def test_weights_are_not_rounded_to_the_leaf():
    # In bfloat16 1 + 2^-9 is 1, and the difference would be lost.
    leaf = jnp.array([[1.0], [-1.0]], jnp.bfloat16)
    assert float(reduce(leaf, [1 + 2**-9, 1.0])[0]) == 2**-9


def test_float64_is_summed_in_float64():
    with jax.enable_x64(True):
        found = reduce(jnp.array([[1.0], [1e-12]], jnp.float64))
        assert found.dtype == jnp.float64
        assert float(found[0]) == 1.0 + 1e-12


def test_sum_has_no_state_and_ignores_what_it_does_not_know():
    tx = sum_objectives()
    params = {"w": np.ones(3, np.float32), "none": None}
    state = tx.init(params)
    assert jax.tree.leaves(state) == []
    updates = {"w": np.ones((2, 3), np.float32), "none": None}
    out, _ = tx.update(updates, state, params, unknown="anything")
    assert_same(out, {"w": np.full(3, 2, np.float32), "none": None})


def test_sum_takes_assessed_updates():
    tx = optax.chain(assess_energy(2), sum_objectives([1.0, 3.0]))
    params = {"w": np.ones(3, np.float32)}
    step = jax.jit(lambda g: tx.update(g, tx.init(params), params)[0])
    out = step({"w": np.ones((2, 3), np.float32)})
    assert_same(out, {"w": np.full(3, 4, np.float32)})


def test_sum_of_a_tree_without_leaves():
    assert reduce({}, [1.0, 2.0]) == {}
