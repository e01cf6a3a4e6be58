"""GDC, SOC, cosines and norms: published numbers, float64, properties."""

import inspect
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import diagnostics, features
from tests import oracles

GOLDEN = pathlib.Path(__file__).parent / "golden"
gradient_deviation = jax.jit(diagnostics.gradient_deviation)
subspace_overlap = jax.jit(diagnostics.subspace_overlap, static_argnames="k")
cosines = jax.jit(diagnostics.pairwise_cosines, static_argnames="granularity")
norms = jax.jit(diagnostics.gradient_norms, static_argnames="granularity")


@pytest.mark.parametrize("number", [0, 1])
def test_published_numbers(number):
    with np.load(GOLDEN / f"diagnostics_{number}.npz") as arrays:
        golden = dict(arrays)
    found = gradient_deviation(golden["grad_supervised"], golden["grad_unsupervised"])
    np.testing.assert_allclose(found, golden["gdc"], rtol=1e-6)
    old, new = golden["old_features"], golden["new_features"]
    found = subspace_overlap(old, new, k=int(golden["k"]))
    # Both are float32, one by a singular value, one by an eigenvalue decomposition.
    np.testing.assert_allclose(found, golden["soc"], rtol=2e-6)


def _deviation(s, u):
    s, u = np.float64(s), np.float64(u)
    t = s + u
    return 1 - s @ t / np.sqrt((s @ s) * (t @ t))


@pytest.mark.parametrize("ratio", [1e-3, 1e-2, 1.0, 30.0])
def test_small_deviations_keep_their_digits(ratio):
    rng = np.random.default_rng(0)
    s, u = rng.normal(size=(2, 200)).astype(np.float32)
    u = (ratio * u).astype(np.float32)
    # At 1e-3 the deviation is 5e-7: 1 - cos in float32 would have one digit. A float32
    # sum s + u has relative errors of 6e-8, of the difference 6e-5 there.
    found = gradient_deviation(s, u)
    np.testing.assert_allclose(found, _deviation(s, u), rtol=1e-5 + 3e-8 / ratio)


# Below 1e-33 single entries would be flushed to zero as subnormal.
@pytest.mark.parametrize("scale", [1e-33, 1e-20, 1e20, 1e36])
def test_deviation_has_no_scale(scale):
    rng = np.random.default_rng(1)
    s, u = rng.normal(size=(2, 50)).astype(np.float32)
    trees = [{"a": x[:20], "b": x[20:].reshape(6, 5)} for x in (s, u)]
    trees = jax.tree.map(lambda x: x * np.float32(scale), trees)
    np.testing.assert_allclose(gradient_deviation(*trees), _deviation(s, u), rtol=2e-6)


def test_deviation_at_its_ends():
    s = np.float32([1, 2, -1])
    assert gradient_deviation(s, 0 * s) == 0.0
    np.testing.assert_allclose(gradient_deviation(s, -3 * s), 2.0, rtol=1e-6)
    assert gradient_deviation(0 * s, s) == 1.0
    assert gradient_deviation(s, -s) == 1.0
    many = jax.jit(jax.vmap(diagnostics.gradient_deviation))(
        np.stack([s, s]), s * np.eye(2, 3, dtype=np.float32)
    )
    assert many.shape == (2,)
    half = gradient_deviation(s.astype(jnp.bfloat16), s.astype(jnp.bfloat16)[::-1])
    assert half.dtype == jnp.float32


def test_a_common_vector_lowers_the_deviation():
    """Why it is to be taken of raw gradients: alignment adds one to both."""
    rng = np.random.default_rng(2)
    s, u, common = rng.normal(size=(3, 100)).astype(np.float32)
    raw = gradient_deviation(s, u)
    assert gradient_deviation(s + 3 * common, u) < 0.5 * raw


def _overlap(old, new, k):
    def unit(z):
        z = np.asarray(z, np.float64)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    old, new = unit(old), unit(new)
    mean = old.mean(axis=0)
    v = np.linalg.svd(old - mean, full_matrices=False)[2][:k]
    return np.sum(((new - mean) @ v.T) ** 2) / np.sum((new - mean) ** 2)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_overlap_in_float64_and_with_masks(k):
    rng = np.random.default_rng(3)
    basis = rng.normal(size=(9, 9)) * 2.0 ** -np.arange(9)
    old = (rng.normal(size=(30, 9)) @ basis.T).astype(np.float32)
    new = rng.normal(size=(20, 9)).astype(np.float32)
    found = subspace_overlap(old, new, k=k)
    np.testing.assert_allclose(found, _overlap(old, new, k), rtol=2e-5)
    padded = np.concatenate([old, np.full((5, 9), np.nan, np.float32), new[:1]])
    masks = np.arange(36) < 30, np.arange(22) >= 2
    extended = np.concatenate([old[:2], new])
    same = subspace_overlap(padded, extended, k=k, old_mask=masks[0], new_mask=masks[1])
    np.testing.assert_allclose(same, found, rtol=2e-6)
    # Neither the length of rows nor a rotation matters.
    lengths = np.exp(10 * rng.normal(size=(20, 1))).astype(np.float32)
    np.testing.assert_allclose(
        subspace_overlap(old, new * lengths, k=k), found, rtol=1e-5
    )
    turn = np.linalg.qr(rng.normal(size=(9, 9)))[0].astype(np.float32)
    np.testing.assert_allclose(
        subspace_overlap(old @ turn, new @ turn, k=k), found, rtol=1e-4
    )


def test_directions_without_variance_do_not_count():
    old = np.zeros((4, 6), np.float32)
    old[:, 0] = [1, -1, 1, -1]
    new = np.eye(6, dtype=np.float32)[:3]
    np.testing.assert_allclose(subspace_overlap(old, new, k=6), 1 / 3, rtol=1e-6)
    nothing = subspace_overlap(old, new, k=2, new_mask=np.zeros(3, bool))
    assert nothing == 0.0


def test_alignment_raises_no_overlap_by_itself():
    """SOC is of features; the coordinator passes these through unchanged."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(8, 5)).astype(np.float32)

    @jax.jit
    def coordinated(z):
        state = features.init_coordinator(features.conceptor(z), 0.5)
        return features.coordinate(z, z, np.arange(8) < 4, state)[0]

    out = coordinated(z)
    np.testing.assert_array_equal(out, z)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_cosines_and_norms(scale):
    grads = {n: x[0] for n, x in oracles.gradient_stream(3, 1).items()}
    flat = {n: np.float64(x).reshape(3, -1) for n, x in grads.items()}
    flat["global"] = np.concatenate(list(flat.values()), axis=1)
    scaled = {n: x * np.float32(scale) for n, x in grads.items()}
    for granularity in ("tensor", "global"):
        found = jax.device_get(cosines(scaled, granularity))
        lengths = jax.device_get(norms(scaled, granularity))
        names = ["global"] if granularity == "global" else list(grads)
        assert list(found) == list(lengths) == names
        for name in names:
            exact = np.linalg.norm(flat[name], axis=1)
            np.testing.assert_allclose(
                lengths[name] / np.float32(scale), exact, rtol=1e-6
            )
            product = np.outer(exact, exact)
            wanted = flat[name] @ flat[name].T / np.where(product > 0, product, 1)
            np.testing.assert_allclose(found[name], wanted, atol=1e-6)
            np.testing.assert_array_equal(np.diag(found[name]), exact > 0)
            np.testing.assert_array_equal(found[name], found[name].T)
    assert len(jax.tree.leaves(found)) == 1  # one array, however many layers


def test_cosines_of_half_precision_complex_and_batched():
    rng = np.random.default_rng(5)
    grads = rng.normal(size=(2, 3, 4)).astype(np.float32)
    half = grads.astype(jnp.bfloat16)
    wide = half.astype(np.float32)
    chex.assert_trees_all_equal(cosines(half), cosines(wide))
    assert cosines(half)["params"].dtype == jnp.float32
    pair = grads[:, :2] + 1j * grads[:, 1:]
    flat = np.concatenate([grads[:, :2], grads[:, 1:]], axis=1)
    found = cosines(pair)["params"]
    np.testing.assert_allclose(found, cosines(flat)["params"], atol=1e-6)
    many = jax.jit(jax.vmap(diagnostics.pairwise_cosines))(np.stack([wide, 2 * wide]))
    assert many["params"].shape == (2, 2, 2)
    assert jax.tree.leaves(diagnostics.pairwise_cosines({}))[0].size == 0
    assert jax.tree.leaves(diagnostics.gradient_norms({}))[0].size == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.gradient_deviation({"a": 1.0}, {"b": 1.0}), "different trees"),
        (lambda d: d.gradient_deviation(np.ones(2), np.ones(3)), "must be equal"),
        (lambda d: d.subspace_overlap(np.ones((2, 3)), np.ones((2, 4))), "must be"),
        (lambda d: d.subspace_overlap(np.ones((2, 3)), np.ones((2, 3)), 0), "k must"),
        (
            lambda d: d.subspace_overlap(
                np.ones((2, 3)), np.ones((2, 3)), new_mask=np.ones(3)
            ),
            "new_mask must",
        ),
        (lambda d: d.pairwise_cosines(np.ones((2, 3)), "channel"), "granularity must"),
        (
            lambda d: d.gradient_norms({"a": np.ones((2, 3)), "b": np.ones((3, 3))}),
            "objective axis",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call(diagnostics)


REPORTS = {"AppliedReport", "Decision", "ProbeReport", "Report", "Verdict"}


@pytest.mark.parametrize("name", sorted(set(diagnostics.__all__) - REPORTS))
def test_functions_are_documented(name):
    documented = inspect.getdoc(getattr(diagnostics, name))
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert f"\n{section}\n" in documented, f"{name} lacks {section}"
