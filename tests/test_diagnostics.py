"""The report against a case computed by hand."""

import jax
import numpy as np
import optax
import pytest

from eagc_jax import (
    aggregators,
    assess_energy,
    diagnostics,
    eagc,
    soft_gate,
    sum_objectives,
)

PARAMS = {"a": np.zeros(2), "b": {"w": np.zeros((2, 2))}, "own": np.zeros(3)}
PARAMS = jax.tree.map(np.float32, PARAMS)

# Objective 0 has mean squares 9 and 1 in the shared leaves "a" (2 entries) and "b/w" (4),
# objective 1 has 1 and 1; only objective 0 reaches "own", which counts for neither.
GRADIENTS = {
    "a": np.float32([[3.0, 3.0], [1.0, -1.0]]),
    "b": {"w": np.float32([[[1.0, 1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, 1.0]]])},
    "own": np.float32([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]),
}
REFERENCE = (2 * 9 + 4 * 1) / 6  # of objective 0; that of objective 1 is 1
ENERGIES = np.array([[9 / REFERENCE, 1 / REFERENCE, 4 / REFERENCE], [1, 1, 0]])


def step(tx, gradients=GRADIENTS, state=None):
    @jax.jit
    def after(gradients, state):
        return tx.update(gradients, state or tx.init(PARAMS), PARAMS)[1]

    return after(gradients, state)


def plain(granularity, **options):
    options = {"floor": 0.0, "warmup_steps": 0, "smoothing": 0.0} | options
    return eagc(2, preset="article", granularity=granularity, **options)


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
        "a": np.zeros((2, 2), np.float32),
        "b": {"w": np.float32([[[1.0, 3.0], [1.0, 3.0]], [[2.0, 2.0], [2.0, 2.0]]])},
        "own": np.zeros((2, 3), np.float32),
    }
    state = step(plain("channel"), gradients)
    # Objective 0 has 1 and 9 of mean 5 in the two columns, objective 1 has 1 and 1.
    blocks = np.array([[1 / 5, 9 / 5], [1, 1]])
    gates = 2 * blocks / blocks.sum(axis=0)
    found = np.asarray(optax.tree.get(state, "gates")["b/w"])
    np.testing.assert_allclose(found[:, 0, :], gates, rtol=1e-5)
    report = diagnostics.report(state)
    np.testing.assert_allclose(report.gates[:, 1], gates.mean(axis=1), rtol=1e-5)
    geometric = np.sqrt(np.prod(blocks, axis=1))  # as the gate compares them: 0.6 and 1
    np.testing.assert_allclose(report.energies[:, 1], geometric, rtol=1e-5)


def test_fresh_state_shows_the_weights():
    init = eagc(2, preset="article", weights=[1.0, 3.0]).init
    report = diagnostics.report(jax.jit(init)(PARAMS))
    np.testing.assert_array_equal(report.gates, [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(report.energies, np.zeros((2, 3)))
    assert report.count == 0


def test_three_objectives():
    gradients = jax.tree.map(lambda g: np.concatenate([g, g[:1]]), GRADIENTS)
    tx = eagc(3, preset="article", granularity="tensor", floor=0.0, warmup_steps=0)
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
    bad = {**GRADIENTS, "a": np.float32([[1.0, 1.0], [np.nan, 1.0]])}
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
    report = diagnostics.report(eagc(2, preset="article").init({}))
    assert report.layers == ()
    assert len(str(report).splitlines()) == 1


# --- the elastic cone, which eagc is by default -----------------------------------------


def test_the_default_is_one_layer():
    tx = optax.chain(eagc(2, balance=1.0), optax.sgd(0.1))
    report = diagnostics.report(step(tx))
    assert report.layers == ("global",)
    norms = np.sqrt([2 * 9 + 4 * 1 + 3 * 4, 2 * 1 + 4 * 1])
    np.testing.assert_allclose(report.energies[:, 0], norms, rtol=1e-6)
    np.testing.assert_allclose(report.gates[:, 0], norms.mean() / norms, rtol=1e-6)
    assert report.switches.tolist() == [0]
    assert report.leaves == ()
    assert report.gradient_rms.shape == (2, 0)
    assert report.nonfinite_count.tolist() == [0, 0]
    assert report.count == 1
    assert str(report).splitlines()[1].split()[0] == "global"


def test_of_a_cone_in_blocks_means_are_shown():
    state = step(eagc(2, balance=1.0, granularity="tensor"))
    report = diagnostics.report(state)
    assert report.layers == ("global",)
    norms = np.sqrt([[18, 4, 12], [2, 4, 0]])
    # "own" is reached by objective 0 alone: its gate is 1 there, and energies are of two.
    gates = norms[:, :2].mean(axis=0) / norms[:, :2]
    expected = np.append(gates, [[1.0], [1.0]], axis=1).mean(axis=1)
    np.testing.assert_allclose(report.gates[:, 0], expected, rtol=1e-6)
    geometric = [np.prod(norms[0]) ** (1 / 3), np.sqrt(np.prod(norms[1, :2]))]
    np.testing.assert_allclose(report.energies[:, 0], geometric, rtol=1e-6)


def test_a_fresh_cone_has_seen_nothing():
    report = diagnostics.report(jax.jit(eagc(2).init)(PARAMS))
    np.testing.assert_array_equal(report.energies, [[0.0], [0.0]])
    np.testing.assert_array_equal(report.gates, [[1.0], [1.0]])
    assert report.count == 0


def test_a_norm_beyond_float32_is_finite():
    big = jax.tree.map(lambda g: g * np.float32(1e38), GRADIENTS)
    report = diagnostics.report(step(eagc(2), big))
    assert np.all(np.isfinite(report.gates))


@pytest.mark.parametrize(
    ("granularity", "layers"),
    [("tensor", ("a", "b/w", "global", "own")), ("global", ("global", "global#2"))],
)
def test_a_cone_behind_a_gate_is_a_layer_of_its_own(granularity, layers):
    options = {"granularity": granularity, "floor": 0.0, "warmup_steps": 0}
    state = step(eagc(2, energy="magnitude", balance=1.0, **options))
    report = diagnostics.report(state)
    assert report.layers == layers
    gated = diagnostics.report(step(eagc(2, preset="article", **options)))
    own = [name != "global" for name in layers] if len(layers) > 2 else [True, False]
    np.testing.assert_allclose(report.gates[:, own], gated.gates, rtol=1e-6)
    np.testing.assert_allclose(report.energies[:, own], gated.energies, rtol=1e-6)
    cone = layers.index("global" if granularity == "tensor" else "global#2")
    found = jax.device_get(state[-1].method)
    np.testing.assert_allclose(report.gates[:, cone], found.gates[0], rtol=1e-6)
    np.testing.assert_allclose(
        report.energies[:, cone], np.exp(found.log_energies[0]), rtol=1e-6
    )
    assert report.leaves == ("a", "b/w", "own")
    assert report.switches.shape == (len(layers),)


def test_nonfinite_steps_of_a_cone():
    bad = {**GRADIENTS, "a": np.float32([[1.0, 1.0], [np.nan, 1.0]])}
    tx = eagc(2, nonfinite="skip_update")
    before = step(tx)
    report = diagnostics.report(step(tx, bad, before))
    assert report.nonfinite_count.tolist() == [0, 1]
    assert report.count == 1
    np.testing.assert_array_equal(report.gates, diagnostics.report(before).gates)


def test_a_batch_of_cones_and_other_aggregators_are_refused():
    state = jax.jit(eagc(2).init)(PARAMS)
    states = jax.tree.map(lambda x: np.stack([x] * 3), state)
    with pytest.raises(ValueError, match="batch of states"):
        diagnostics.report(states)
    with pytest.raises(ValueError, match="no elastic_cone"):
        diagnostics.report(jax.jit(aggregators.upgrad(2).init)(PARAMS))


def test_arrays_are_numpy():
    for value in diagnostics.report(step(plain("tensor")))._asdict().values():
        assert isinstance(value, np.ndarray | tuple | int)
