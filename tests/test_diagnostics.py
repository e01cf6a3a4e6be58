"""The report against a case computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import assess_energy, diagnostics, eagc, soft_gate, sum_objectives

PARAMS = {"a": jnp.zeros(2), "b": {"w": jnp.zeros((2, 2))}, "own": jnp.zeros(3)}

# Objective 0 has mean squares 9 and 1 in the shared leaves "a" (2 entries) and "b/w" (4),
# objective 1 has 1 and 1; only objective 0 reaches "own", which counts for neither.
GRADIENTS = {
    "a": jnp.array([[3.0, 3.0], [1.0, -1.0]]),
    "b": {"w": jnp.array([[[1.0, 1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, 1.0]]])},
    "own": jnp.array([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]),
}
REFERENCE = (2 * 9 + 4 * 1) / 6  # of objective 0; that of objective 1 is 1
ENERGIES = np.array([[9 / REFERENCE, 1 / REFERENCE, 4 / REFERENCE], [1, 1, 0]])


def step(tx, gradients=GRADIENTS, state=None):
    state = jax.jit(tx.init)(PARAMS) if state is None else state
    return jax.jit(tx.update)(gradients, state, PARAMS)[1]


def plain(granularity, **options):
    options = {"floor": 0.0, "warmup_steps": 0, "smoothing": 0.0} | options
    return eagc(2, granularity=granularity, **options)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_per_layer(granularity):
    report = diagnostics.report(step(plain(granularity)))
    assert report.layers == ("a", "b/w", "own")
    np.testing.assert_allclose(report.energies, ENERGIES, rtol=1e-5)
    # Of two objectives with equal weights: 2 * the share of the energy.
    shares = 2 * ENERGIES / ENERGIES.sum(axis=0)
    shares[:, 2] = 1.0  # nobody to share with
    np.testing.assert_allclose(report.gates, shares, rtol=1e-5)
    assert report.leaves == ("a", "b/w", "own")
    np.testing.assert_allclose(report.gradient_rms, [[3, 1, 2], [1, 1, 0]], rtol=1e-6)
    assert report.switches.tolist() == [0, 0, 0]
    assert report.nonfinite_count.tolist() == [0, 0]
    assert report.count == 1


def test_global():
    report = diagnostics.report(step(plain("global")))
    assert report.layers == ("global",)
    # Each objective's mean over the shared leaves, relative to itself.
    np.testing.assert_allclose(report.energies, [[1.0], [1.0]], rtol=1e-5)
    np.testing.assert_allclose(report.gates, [[1.0], [1.0]], rtol=1e-5)
    assert report.leaves == ("a", "b/w", "own")
    np.testing.assert_allclose(report.gradient_rms, [[3, 1, 2], [1, 1, 0]], rtol=1e-6)
    report = diagnostics.report(step(plain("global", scale="global")))
    mean = (REFERENCE + 1) / 2
    np.testing.assert_allclose(report.energies, [[REFERENCE / mean], [1 / mean]], 1e-5)
    np.testing.assert_allclose(report.gates, [[REFERENCE / mean], [1 / mean]], 1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_element_shows_means_per_leaf(smoothing):
    report = diagnostics.report(step(plain("element", smoothing=smoothing)))
    assert report.layers == ("a", "b/w", "own")
    np.testing.assert_allclose(report.energies, ENERGIES, rtol=1e-5)
    # Within each leaf all entries have one energy here: the mean gate is that of each.
    shares = 2 * ENERGIES / ENERGIES.sum(axis=0)
    shares[:, 2] = 1.0
    np.testing.assert_allclose(report.gates, shares, rtol=1e-5)


def test_channels_are_averaged_over_a_layer():
    gradients = {
        "a": jnp.zeros((2, 2)),
        "b": {"w": jnp.array([[[1.0, 3.0], [1.0, 3.0]], [[2.0, 2.0], [2.0, 2.0]]])},
        "own": jnp.zeros((2, 3)),
    }
    state = step(plain("channel"), gradients)
    # Objective 0 has 1 and 9 of mean 5 in the two columns, objective 1 has 1 and 1.
    blocks = np.array([[1 / 5, 9 / 5], [1, 1]])
    gates = 2 * blocks / blocks.sum(axis=0)
    found = optax.tree.get(state, "gates")["b/w"]
    np.testing.assert_allclose(found[:, 0, :], gates, rtol=1e-5)
    report = diagnostics.report(state)
    np.testing.assert_allclose(report.gates[:, 1], gates.mean(axis=1), rtol=1e-5)
    geometric = np.sqrt(np.prod(blocks, axis=1))  # as the gate compares them: 0.6 and 1
    np.testing.assert_allclose(report.energies[:, 1], geometric, rtol=1e-5)


def test_fresh_state_shows_the_weights():
    report = diagnostics.report(eagc(2, weights=[1.0, 3.0]).init(PARAMS))
    np.testing.assert_array_equal(report.gates, [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(report.energies, np.zeros((2, 3)))
    assert report.count == 0


def test_three_objectives():
    gradients = jax.tree.map(lambda g: jnp.concatenate([g, g[:1]]), GRADIENTS)
    tx = eagc(3, granularity="tensor", floor=0.0, warmup_steps=0)
    report = diagnostics.report(step(tx, gradients))
    assert report.energies.shape == report.gates.shape == (3, 3)
    np.testing.assert_allclose(report.gates.sum(axis=0), [3.0, 3.0, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(report.gates[0], report.gates[2])
    header = str(report).splitlines()[0].split()
    assert header == [
        "layer",
        *(f"{what}[{k}]" for what in ("energy", "gate") for k in range(3)),
        "switches",
    ]


def test_switches_and_counts():
    tx = plain("tensor")
    swapped = jax.tree.map(lambda g: g[::-1], GRADIENTS)
    state = step(tx, swapped, step(tx))
    report = diagnostics.report(state)
    # "a": 9 against 1 becomes 1 against 9. "own" never has two objectives at once.
    assert report.switches.tolist() == [1, 1, 0]
    assert report.count == 2


def test_nonfinite_steps_are_counted_and_not_shown():
    tx = plain("tensor", nonfinite="skip_update")
    bad = {**GRADIENTS, "a": jnp.array([[1.0, 1.0], [jnp.nan, 1.0]])}
    before = step(tx)
    report = diagnostics.report(step(tx, bad, before))
    assert report.nonfinite_count.tolist() == [0, 1]
    assert report.count == 1
    np.testing.assert_array_equal(report.gates, diagnostics.report(before).gates)
    np.testing.assert_allclose(report.energies, ENERGIES, rtol=1e-5)


def test_printing():
    text = str(diagnostics.report(step(plain("tensor"))))
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["layer", "a", "b/w", "own"]
    assert lines[1].split() == ["a", "2.455", "1", "1.421", "0.5789", "0"]


def test_without_the_first_stage_energies_are_unknown():
    tx = optax.chain(soft_gate(2), sum_objectives())
    report = diagnostics.report(step(tx))
    assert np.isnan(report.energies).all()
    assert report.energies.shape == report.gates.shape == (2, 3)
    assert report.nonfinite_count.tolist() == [0, 0]
    assert report.leaves == ()


def test_stages_chained_by_hand():
    tx = optax.chain(
        assess_energy(2), soft_gate(2, floor=0.0, warmup_steps=0), sum_objectives()
    )
    report = diagnostics.report(step(optax.chain(tx, optax.adam(0.1))))
    np.testing.assert_allclose(report.energies, ENERGIES, rtol=1e-5)


def test_a_tree_without_leaves():
    report = diagnostics.report(eagc(2).init({}))
    assert report.layers == ()
    assert len(str(report).splitlines()) == 1


def test_arrays_are_numpy():
    for value in diagnostics.report(step(plain("tensor")))._asdict().values():
        assert isinstance(value, np.ndarray | tuple | int)
