"""The hash of coordinates: uniform, independent, and the same on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from eagc_jax import aggregators
from eagc_jax.aggregators._draws import uniform_by_coordinate

SHAPE = (1000, 1000)
WORDS = np.random.default_rng(0).integers(0, 2**32, (3, 2), np.uint32)
# Words that a poor hash would let through: numbers that are small or one apart.
PLAIN = np.array([[0, 0], [0, 1], [1, 2]], np.uint32)


@functools.cache
def draws(kind):
    leaf = jnp.zeros((1, *SHAPE))
    draw = jax.jit(lambda words: uniform_by_coordinate(words, leaf, jnp.float32))
    return [np.float64(draw(words)).ravel() for words in (WORDS, PLAIN)[kind]]


@pytest.mark.parametrize("kind", [0, 1])
def test_draws_are_uniform(kind):
    for u in draws(kind):
        assert 0 <= u.min() < 1e-5
        assert 1 - 1e-5 < u.max() < 1
        for bits in (8, 0), (16, 8), (24, 16):  # each byte of the 24 bits
            drawn = np.floor(u * 2 ** bits[0]) % 256
            counts = np.bincount(drawn.astype(int), minlength=256)
            expected = len(u) / 256
            # Chi-square with 255 degrees: mean 255, deviation 22.6; seven of them.
            assert np.sum((counts - expected) ** 2) / expected < 255 + 7 * 22.6


@pytest.mark.parametrize("kind", [0, 1])
def test_draws_are_independent(kind):
    """Of neighbours in the leaf, near and far; of other words, and of those shifted."""
    first, second, third = draws(kind)
    pairs = [(first[:-lag], first[lag:]) for lag in (1, 2, 7, 999, 1000, 2**16)]
    for other in (second, third):
        pairs += [(first, other)]
        pairs += [(first[lag:], other[:-lag]) for lag in (1, 1000)]
        pairs += [(other[lag:], first[:-lag]) for lag in (1, 1000)]
    for left, right in pairs:
        bound = 5.5 / np.sqrt(len(left))  # of a correlation, which has 1 / sqrt(n)
        assert abs(np.corrcoef(left, right)[0, 1]) < bound
        # Together: 16 x 16 boxes.
        box = np.floor(left * 16) * 16 + np.floor(right * 16)
        counts, expected = np.bincount(box.astype(int), minlength=256), len(left) / 256
        assert np.sum((counts - expected) ** 2) / expected < 255 + 7 * 22.6


def test_graddrop_draws_the_same_numbers_on_any_devices():
    """With param_specs; without them, parts draw for themselves, copies alike."""
    specs, shapes = {"w": P("a", "b"), "b": P(None)}, {"w": (64, 4), "b": (32,)}
    ones = {n: np.ones(shape, np.float32) for n, shape in shapes.items()}
    g = {n: np.stack([x, -x]) for n, x in ones.items()}
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    steps = {n: P(None, *spec) for n, spec in specs.items()}

    def first(**place):
        tx = aggregators.graddrop(2, **place)
        return lambda g: tx.update(g, tx.init({n: x[0] for n, x in g.items()}))[0]

    def drawn(**place):
        mapped = jax.shard_map(
            first(axis_name=("a", "b"), **place),
            mesh=mesh,
            in_specs=(steps,),
            out_specs=specs,
        )
        return jax.device_get(jax.jit(mapped)(g))

    expected = jax.device_get(jax.jit(first())(g))
    jax.tree.map(np.testing.assert_array_equal, drawn(param_specs=specs), expected)
    own = drawn()
    np.testing.assert_array_equal(own["b"], expected["b"])
    parts = [p for half in np.split(own["w"], 4) for p in np.split(half, 2, 1)]
    assert all(np.any(parts[0] != part) for part in parts[1:])
    assert abs(np.mean(own["w"])) < 5 / np.sqrt(own["w"].size)
    with pytest.raises(ValueError, match="param_specs has no leaf 'b'"):
        drawn(param_specs={"w": P("a", "b")})
