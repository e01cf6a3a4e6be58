"""Vectors of one length measured together: the same means as leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import blocks

SHAPES = {
    "scale": (8,),
    "kernel": (6, 8),
    "wide": (12,),
    "conv": (2, 2, 3, 8),
    "bias": (8,),
    "heads": (6, 2, 4),
    "gain": (),
    "token": (1, 1, 8),
}


def leaves_of(number, dtypes=(np.float32,)):
    draw = np.random.default_rng(0).normal
    return {
        name: jnp.asarray(draw(size=(number, *shape)), dtypes[index % len(dtypes)])
        for index, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.mark.parametrize("granularity", ["global", "tensor", "channel", "element"])
def test_means_of_packs_are_those_of_leaves(granularity):
    leaves = leaves_of(3)
    layout = blocks.layout_of_updates(granularity, leaves)
    packs = blocks.packed(leaves, layout.packs)
    vectors = {"scale", "bias", "wide"} if granularity != "element" else set()
    if granularity == "element":  # vectors of one length are a group of their own
        assert layout.groups["*8of8"] == ("scale", "bias")
    assert set(SHAPES) - set(packs) == vectors
    together, apart = layout.block_means(packs), layout.block_means(leaves)
    assert {g: x.shape[1:] for g, x in together.items()} == layout.group_shapes()
    # Sums of eight to a few dozen numbers, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), together, apart)


def test_values_come_back_to_their_leaves():
    leaves = leaves_of(2)
    layout = blocks.layout_of_updates("channel", leaves)
    means = layout.block_means(blocks.packed(leaves, layout.packs))
    found, shown = layout.scatter(means), layout.show(means)
    for name, shape in SHAPES.items():
        axes = tuple(a + 1 for a in blocks.block_axes("channel", name, shape))
        expected = np.mean(np.float64(leaves[name]), axis=axes, keepdims=True)
        np.testing.assert_allclose(found[name], expected, 1e-5, 1e-6)
        np.testing.assert_allclose(shown[name], expected, 1e-5, 1e-6)


def test_every_entry_comes_back_to_its_leaf():
    leaves = leaves_of(2)
    layout = blocks.layout_of_updates("element", leaves)
    assert not set(layout.alone) & {"scale", "bias", "wide"}
    entries = layout.block_means(leaves)
    found, shown = layout.scatter(entries), layout.show(entries)
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(found[name], leaf)
        mean = np.mean(np.float64(leaf), axis=tuple(range(1, leaf.ndim)))
        np.testing.assert_allclose(shown[name], mean, 1e-5, 1e-6)


def test_where_a_leaf_has_no_entries_its_weights_are_shown():
    leaves = {"w": jnp.ones((2, 3)), "none": jnp.zeros((2, 0))}
    layout = blocks.layout_of_updates("element", leaves)
    shown = layout.show(layout.block_means(leaves), jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(shown["none"], [0.5, 2.0])
    np.testing.assert_array_equal(shown["w"], [1.0, 1.0])


def test_vectors_of_several_dtypes_are_packed_in_one_that_holds_both():
    leaves = leaves_of(2, (jnp.bfloat16, jnp.float16))
    leaves["bias"] = leaves["bias"].astype(jnp.float16)
    layout = blocks.layout_of_updates("tensor", leaves)
    assert blocks.packed(leaves, layout.packs)["*8"].dtype == jnp.float32
