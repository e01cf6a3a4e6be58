"""Gram matrices against float64 NumPy, at every granularity, dtype and scale."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import blocks, cross_gram, gram, gram_matrix
from eagc_jax.gram import products
from eagc_jax.objectives import named_leaves

K = 3
SHAPES = {
    "bias": (7,),
    "conv": (2, 3, 4, 5),
    "empty": (0, 4),
    "heads": (6, 2, 3),
    "kernel": (40, 9),
    "scale": (),
}
EPS = float(np.finfo(np.float32).eps)


def tree(dtype=np.float32, number=K, seed=0, shapes=SHAPES):
    draw = np.random.default_rng(seed).normal
    return {
        name: draw(size=(number, *shape)).astype(dtype)
        for name, shape in shapes.items()
    }


def first_axis(path, shape):
    """One block per index of the last axis but one, where there is one."""
    return tuple(a for a in range(len(shape)) if a != len(shape) - 2)


def oracle(updates, granularity, other=None):
    """Block by block, entry by entry index, in float64 (complex128)."""
    found = []
    for name, leaf in updates.items():
        a = np.asarray(leaf, np.complex128)
        b = a if other is None else np.asarray(other[name], np.complex128)
        axes = blocks.block_axes(granularity, name, a.shape[1:])
        kept = [axis for axis in range(a.ndim - 1) if axis not in axes]
        a, b = (np.moveaxis(x, [k + 1 for k in kept], range(len(kept))) for x in (a, b))
        size = math.prod(a.shape[: len(kept)])
        spanned = math.prod(a.shape[len(kept) + 1 :])
        a, b = (x.reshape(size, x.shape[len(kept)], spanned) for x in (a, b))
        found.append(np.einsum("bkn,bln->bkl", a, b.conj()).real)
    stacked = np.concatenate(found)
    return stacked.sum(axis=0) if granularity == "global" else stacked


def on_one_device(monkeypatch):
    monkeypatch.setattr(products, "may_be_sharded", lambda leaf: False)
    # Not what was traced before, with other constants.
    for name in ("_on_cpu", "_rest_on_cpu"):
        monkeypatch.setattr(products, name, getattr(products, name).__wrapped__)


@pytest.fixture
def looped(monkeypatch):
    """The path of one CPU device, with blocks small enough for small leaves."""
    on_one_device(monkeypatch)
    monkeypatch.setattr(products, "_BLOCK_ENTRIES", 60)
    monkeypatch.setattr(products, "_CHANNEL_ROWS", 4)
    monkeypatch.setattr(products, "_MIN_BLOCK", 20)


@pytest.mark.parametrize(("number", "columns"), [(2, 32768), (4, 16384), (16, 2048)])
def test_blocks_have_the_size_that_was_measured_best(number, columns, monkeypatch):
    on_one_device(monkeypatch)
    updates = jax.ShapeDtypeStruct((number, 70_000), jnp.float32)
    text = str(jax.make_jaxpr(gram.gram_matrix)(updates))
    assert f"f32[{number},{columns}]" in text


GRANULARITIES = ["global", "tensor", "channel", first_axis]


@pytest.mark.rounding
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("path", ["whole", "looped"])
def test_agrees_with_float64(granularity, path, request):
    if path == "looped":
        request.getfixturevalue("looped")
    # Pair by pair up to two objectives, for channels up to eight, and not above.
    for number in {"global": (2, K), "channel": (K, 9)}.get(granularity, (K,)):
        updates = tree(number=number)
        found = jax.jit(lambda u: gram_matrix(u, granularity))(updates)
        expected = oracle(updates, granularity)
        assert found.dtype == jnp.float32
        assert found.shape == expected.shape
        # Sums of at most 700 products of numbers near 1: rounding grows as their root.
        np.testing.assert_allclose(found, expected, rtol=0, atol=30 * EPS * 25)


@pytest.mark.usefixtures("looped")
def test_a_loop_is_taken_and_nothing_is_concatenated():
    leaf = np.ones((K, 500), np.float32)
    text = str(jax.make_jaxpr(gram_matrix)({"a": leaf, "b": leaf}))
    assert "dynamic_slice" in text
    # What is concatenated or stacked is blocks' results, never leaves.
    for line in re.findall(r"concatenate\[.*", text):
        assert "500" not in line


@pytest.mark.rounding
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_leaves_are_summed_in_float32(dtype):
    updates = tree(dtype)
    found = jax.jit(gram_matrix)(updates)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, oracle(updates, "global"), atol=30 * EPS * 25)


@pytest.mark.rounding
def test_complex_leaves_count_with_the_real_part():
    kernel = tree()["kernel"] + 1j * tree(seed=1)["kernel"]
    updates = {"c": kernel.astype(np.complex64), "r": tree()["bias"]}
    for granularity in ("global", "channel"):
        found = jax.jit(lambda u, g=granularity: gram_matrix(u, g))(updates)
        assert not jnp.iscomplexobj(found)
        expected = oracle(updates, granularity)
        np.testing.assert_allclose(found, expected, atol=30 * EPS * 40)


@pytest.mark.rounding
@pytest.mark.parametrize("path", ["whole", "looped"])
@pytest.mark.parametrize(("number", "other"), [(K, 2), (2, 2), (1, 2)])
def test_cross_gram(number, other, path, request):
    if path == "looped":  # pair by pair up to two objectives
        request.getfixturevalue("looped")
    left, right = tree(number=number), tree(number=other, seed=1)
    expected = np.zeros((number, other))
    for name in SHAPES:
        a, b = (np.asarray(t[name], np.float64) for t in (left, right))
        expected += a.reshape(number, -1) @ b.reshape(other, -1).T if a.size else 0
    found = jax.jit(lambda left, right: cross_gram(left, right))(left, right)
    np.testing.assert_allclose(found, expected, atol=30 * EPS * 25)


def test_cross_gram_of_other_trees():
    left, right = tree(), tree(number=2, seed=1)
    with pytest.raises(ValueError, match="same tree"):
        cross_gram(left, {"kernel": right["kernel"]})


def test_under_vmap():
    trees = [tree(seed=seed) for seed in range(3)]
    batch = jax.tree.map(lambda *x: np.stack(x), *trees)
    found = np.asarray(jax.jit(jax.vmap(gram_matrix))(batch))
    for seed in range(3):
        # Summed in another order: an entry is as exact as the squares (500) beside it.
        np.testing.assert_allclose(
            found[seed], jax.jit(gram_matrix)(trees[seed]), atol=30 * EPS * 25
        )


@pytest.mark.rounding
@pytest.mark.parametrize("exponent", [-100, 0, 115])
def test_parts_are_in_range_at_any_scale(exponent):
    """2^-100 = 8e-31 squares to 0, 2^115 = 4e34 to infinity."""
    ratios = np.float32([1.0, 2.0**-14, 2.0**-7])  # norm ratios beyond 1e4
    base = tree()

    def parts(factor):
        rows = jax.tree.map(lambda x: (x.T * ratios * factor).T, base)
        layout = blocks.layout_of_updates("global", named_leaves(rows))
        return gram.gram_blocks(rows, layout, jnp.ones((K,), bool))

    expected, _ = jax.jit(parts)(1.0)
    found, finite = jax.jit(parts)(2.0**exponent)
    assert np.all(finite)
    # Powers of two: but for entries that underflow, far below, nothing else rounds.
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=4 * EPS)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=4 * EPS)
    np.testing.assert_allclose(
        found.scale, expected.scale * 2.0**exponent, rtol=4 * EPS
    )


def test_non_finite_and_absent_rows():
    updates = tree()
    updates["bias"][1, 2], updates["bias"][2] = np.inf, np.nan
    layout = blocks.layout_of_updates("global", updates)
    active = np.array([True, True, False])
    found, finite = jax.jit(lambda u: gram.gram_blocks(u, layout, active))(updates)
    np.testing.assert_array_equal(finite, [True, False, True])
    np.testing.assert_array_equal(found.cosines[0], np.eye(3))
    np.testing.assert_array_equal(found.norms[0], [1.0, 0.0, 0.0])


def test_split_gram_is_the_matrix_again():
    matrix = gram_matrix(tree())  # not compiled
    parts = jax.device_get(gram.split_gram(matrix))
    np.testing.assert_allclose(parts.matrix * parts.scale**2, matrix, rtol=1e-5)
    np.testing.assert_allclose(np.max(parts.norms), 1.0, rtol=EPS)
    np.testing.assert_array_equal(np.diagonal(parts.cosines), 1.0)
    empty = jax.jit(gram.split_gram)(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(empty.cosines, np.eye(2))
    assert float(empty.scale) == 0.0


def test_errors():
    with pytest.raises(ValueError, match="element"):
        gram_matrix(tree(), "element")
    with pytest.raises(ValueError, match="spans none of leaf 'kernel'"):
        gram_matrix({"kernel": np.ones((2, 3, 4))}, lambda path, shape: ())
    with pytest.raises(ValueError, match="objective axis"):
        gram_matrix({"a": np.ones((2, 3)), "b": np.ones((3, 3))})


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("granularity", ["global", "tensor", "channel"])
def test_sharded_leaves_stay_where_they_are(granularity, axis_type):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)
    specs = {"kernel": P(None, None, "model"), "bias": P(), "heads": P(None, "data")}
    updates = tree(shapes={"bias": (7,), "heads": (64, 3), "kernel": (64, 32)})
    expected = oracle(updates, granularity)
    with jax.set_mesh(mesh):
        placed = {
            name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
            for name, leaf in updates.items()
        }
        compiled = (
            jax.jit(lambda u: gram_matrix(u, granularity)).lower(placed).compile()
        )
        found = compiled(placed)
    np.testing.assert_allclose(found, expected, atol=30 * EPS * 45)
    # A gradient's shard has K x 512 entries or more, the products of all blocks are less.
    for kind in re.findall(
        r"= (.*) (?:all-gather|all-to-all)(?:-start)?\(", compiled.as_text()
    ):
        for shape in re.findall(r"\w+\[([\d,]*)\]", kind):
            assert np.prod([int(n) for n in shape.split(",") if n], dtype=int) <= 9 * 36
