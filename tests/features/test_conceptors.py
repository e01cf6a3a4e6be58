"""Conceptors, energies, and conceptors that are refreshed during training."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import features as F
from tests.features import oracle

D = 6


def pool(seed=0, rows=40):
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(D, D)) * 2.0 ** -np.arange(D)
    return (rng.normal(size=(rows, D)) @ basis.T + 0.3).astype(np.float32)


make = jax.jit(F.conceptor, static_argnames="normalize")
energy_ratio = jax.jit(F.energy_ratio, static_argnames="normalize")


@pytest.mark.parametrize("aperture", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("structured", [False, True])
def test_against_a_linear_solve(aperture, structured):
    z = pool()
    options = {}
    if structured:
        options = {"normalize": True, "center": np.full(D, 0.1, np.float32)}
    found = make(z, aperture, **options)
    exact = oracle.conceptor(z, aperture, **options)
    # An error dR of float32, 1e-6, moves C by at most alpha^2 dR near small eigenvalues.
    atol = 1e-6 * max(1, aperture**2)
    np.testing.assert_allclose(found, exact, atol=atol)
    energies = energy_ratio(z, found, **options)
    np.testing.assert_allclose(
        energies, oracle.energies(z, exact, **options), atol=2 * atol
    )


# Where eigenvectors as they come from float32 put an eigenvalue above the bound.
@hypothesis.example(65534, 6.0, 704.9979793408688)
@hypothesis.given(st.integers(0, 2**16), st.floats(0.01, 100), st.floats(1e-3, 1e3))
def test_properties(seed, aperture, scale):
    z = pool(seed) * np.float32(scale)
    c = np.asarray(make(z, aperture), np.float64)
    np.testing.assert_array_equal(c, c.T)
    values = np.linalg.eigvalsh(c)
    # In [0, 1) but for the rounding of a product of D terms.
    assert -1e-6 <= values[0] <= values[-1] <= 1 + 1e-6
    energy = energy_ratio(z, c)
    assert np.all((energy >= 0) & (energy <= 1))
    # The aperture has the unit of 1 / feature.
    np.testing.assert_allclose(make(2 * z, aperture / 2), c, atol=1e-5)


def test_streaming_equals_one_shot():
    z = pool(rows=50)
    whole = make(z, 3.0)
    moment = F.init_moment(D)
    add = jax.jit(F.add_features)
    for start in range(0, 50, 10):
        # Rows that are masked out may hold anything.
        batch = np.concatenate([z[start : start + 10], np.full((3, D), np.nan)])
        moment = add(moment, batch.astype(np.float32), np.arange(13) < 10)
    assert moment.weight == 50
    found = jax.jit(F.conceptor_from_moment)(moment, 3.0)
    np.testing.assert_allclose(found, whole, atol=1e-5)  # 9 alpha^2 roundings of R
    chex.assert_tree_all_finite(moment)


def test_decay_forgets():
    add = functools.partial(F.add_features, decay=0.5)
    moment = add(add(F.init_moment(1), jnp.array([[4.0]])), jnp.array([[2.0], [2.0]]))
    assert moment.total.item() == 0.5 * 16 + 8
    assert moment.weight == 2.5


def test_an_empty_moment_has_no_subspace():
    assert not F.conceptor_from_moment(F.init_moment(3)).any()


@pytest.mark.parametrize("size", [1e-25, 1e-7, 1.0, 1e25])
def test_an_energy_does_not_depend_on_length(size):
    z = pool(3)
    c = make(z)
    expected = energy_ratio(z, c)
    found = energy_ratio(z * np.float32(size), c)
    # The clip of the released code, 1e-12 under the squared length, is not reached at 1.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(expected, oracle.energies(z, np.asarray(c)), rtol=1e-5)


def test_energies_of_more_axes_and_half_precision():
    z = pool(4, rows=12)
    c = make(z)
    flat = energy_ratio(z, c)
    np.testing.assert_array_equal(energy_ratio(z.reshape(3, 4, D), c).ravel(), flat)
    half = jnp.asarray(z, jnp.bfloat16)
    found = energy_ratio(half, c)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, energy_ratio(half.astype(jnp.float32), c))
    assert make(half).dtype == jnp.float32
    assert energy_ratio(jnp.zeros((2, D)), c).tolist() == [0.0, 0.0]


def test_vmap():
    many = np.stack([pool(5), pool(6)])
    found = jax.jit(jax.vmap(F.conceptor))(many)
    for one, z in zip(found, many, strict=True):
        np.testing.assert_allclose(one, make(z), atol=4e-6)


# ---------------------------------------------------------------------------
# Refreshing
# ---------------------------------------------------------------------------

refresh = jax.jit(F.refresh_conceptor, static_argnames=("every", "normalize"))


def started(z, step=8):
    c = make(z)
    state = F.init_coordinator(c, energy_ratio(z, c))
    return state._replace(step=jnp.int32(step))


def test_refresh_carries_the_reference_over():
    old, new = pool(7), 3 * pool(8)
    state = started(old)
    found = refresh(state, new, 2.0, every=4)
    exact = oracle.conceptor(new, 2.0)
    np.testing.assert_allclose(found.conceptor, exact, atol=1e-5)
    r = new.T.astype(np.float64) @ new
    before = np.trace(r @ np.asarray(state.conceptor, np.float64))
    mu = float(state.labeled_reference) * np.trace(r @ exact) / before
    np.testing.assert_allclose(found.labeled_reference, min(mu, 1.0), rtol=1e-5)
    assert found.step == state.step


def test_refresh_with_the_same_features_changes_nothing():
    z = pool(9)
    state = started(z)
    again = refresh(state, z, 2.0)
    chex.assert_trees_all_close(again, state, rtol=1e-6, atol=1e-6)


def test_refresh_only_when_due_and_with_something_to_take():
    z = pool(10)
    for step, every in ((0, 1), (7, 4), (9, 2)):
        state = started(z, step)
        chex.assert_trees_all_equal(refresh(state, 2 * z, 2.0, every=every), state)
    state = started(z)
    chex.assert_trees_all_equal(refresh(state, F.init_moment(D), 2.0), state)
    bad = z.copy()
    bad[0, 0] = np.nan
    chex.assert_trees_all_equal(refresh(state, bad, 2.0), state)


def test_refresh_with_structure():
    z = pool(11)
    center = np.full(D, 0.1, np.float32)
    options = {"normalize": True, "center": center}
    c = make(z, 5.0, **options)
    state = F.init_coordinator(c, energy_ratio(z, c, **options), center=center)
    state = state._replace(step=jnp.int32(1))
    direct = refresh(state, z, 5.0, normalize=True)
    moment = F.add_features(F.init_moment(D), z, **options)
    chex.assert_trees_all_close(refresh(state, moment, 5.0), direct, atol=1e-6)
    chex.assert_trees_all_close(direct, state._replace(step=direct.step), atol=1e-5)


def test_refresh_inside_a_scan():
    z = pool(12, rows=60).reshape(6, 10, D)
    mask = np.arange(10) < 4
    first = started(pool(13), step=0)

    def body(carry, z):
        state, moment = carry
        _, state, info = F.coordinate(z, None, mask, state, aga_weight=0)
        moment = F.add_features(moment, z, mask, decay=0.9)
        state = F.refresh_conceptor(state, moment, every=3)
        return (state, moment), (state, info)

    carry = first, F.init_moment(D)
    _, (states, infos) = jax.jit(lambda c, z: jax.lax.scan(body, c, z))(carry, z)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(
            [first.conceptor, *states.conceptor[:-1]], states.conceptor, strict=True
        )
    ]
    assert changed == [False, False, True, False, False, True]
    chex.assert_tree_all_finite((states, infos[:4]))
    assert np.all(np.abs(np.diff(states.labeled_reference)) < 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conceptor(np.zeros(3)), r"features must be \(N, D\)"),
        (lambda: F.conceptor(np.zeros((0, 3))), "at least one row"),
        (lambda: F.conceptor(np.ones((2, 3)), 0.0), "aperture must be positive"),
        (lambda: F.conceptor(np.ones((2, 3)), center=np.ones(2)), "center must be"),
        (lambda: F.init_moment(0), "dim must be"),
        (lambda: F.add_features(F.init_moment(2), np.ones((2, 3))), "as the moment"),
        (
            lambda: F.add_features(F.init_moment(3), np.ones((2, 3)), np.ones(3)),
            "mask must have",
        ),
        (lambda: F.energy_ratio(np.ones((2, 3)), np.eye(2)), "conceptor must be"),
        (lambda: F.refresh_conceptor(started(pool()), pool(), every=0), "every must"),
        (
            lambda: F.refresh_conceptor(started(pool()), F.init_moment(2)),
            "moment is of 2 channels",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
