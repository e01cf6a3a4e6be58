"""What is refused, and what the error says; what the program check lets pass."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from eagc_jax import aggregators, eagc, optimizer_aware
from eagc_jax.optimizers.recognise import check_recognised
from tests.optimizers.problems import EPS, OPTIMIZERS, K, flat, gradients, tree

PARAMS = tree(0)


def traced(optimizer, params=PARAMS, updates=None, **options):
    tx = optimizer_aware(aggregators.mean(K), optimizer, **options)
    updates = gradients(0) if updates is None else updates
    state = jax.eval_shape(tx.init, params)
    return jax.eval_shape(tx.update, updates, state, params)


@pytest.mark.parametrize(
    "aggregator",
    [
        aggregators.gradnorm(K, layers="kernel"),
        aggregators.gcond(K),
        eagc(K, preset="article"),
        optax.chain(aggregators.upgrad(K)),
        optax.inject_hyperparams(aggregators.upgrad, static_args="num_objectives")(K),
        aggregators.accumulate_objectives(aggregators.mean(K), K, every=2),
        optax.adam(0.1),
        None,
    ],
)
def test_aggregators_without_a_gram_matrix(aggregator):
    with pytest.raises(ValueError, match="function of the Gram matrix"):
        optimizer_aware(aggregator, optax.adam(0.1))


@pytest.mark.parametrize("option", ["include_momentum", "certify"])
def test_switches(option):
    with pytest.raises(ValueError, match=f"{option} must be True or False, got 1"):
        optimizer_aware(aggregators.upgrad(K), optax.adam(0.1), **{option: 1})


UNKNOWN = {
    "ScaleByBeliefState": optax.adabelief(0.1),
    "FactoredState": optax.adafactor(0.1),
    "AddNoiseState": optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.sgd(0.1)),
    "MultiStepsState": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "ScaleByRStdDevState": optax.rmsprop(0.1, centered=True),
    "ScaleByAdemamixState": contrib.ademamix(0.1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_optimizers_that_are_not_known(name):
    tx = optimizer_aware(aggregators.upgrad(K), UNKNOWN[name])
    with pytest.raises(ValueError, match=f"keeps a {name}.* Wrap what is around"):
        jax.eval_shape(tx.init, PARAMS)


MIXING = {
    "reduce_sum": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "reduce_max|reduce_sum|dot_general": optax.lamb(0.1),
    "reduce_sum|reduce_mean": optax.chain(optax.centralize(), optax.sgd(0.1)),
}


@pytest.mark.parametrize("operation", MIXING)
def test_optimizers_that_mix_entries(operation):
    """Their parts keep no state: only the program shows it."""
    with pytest.raises(ValueError, match=f"together \\('({operation})' in its"):
        traced(MIXING[operation])


BENT = {
    "sign": optax.signum(0.1) if hasattr(optax, "signum") else None,
    "momentum before the second moment": optax.chain(
        optax.trace(0.9), optax.scale_by_rms(), optax.scale(-0.1)
    ),
    "clipped behind": optax.chain(optax.adam(0.1), optax.clip(0.05)),
    "a sign behind": optax.chain(
        optax.trace(0.9), optax.scale_by_sign(), optax.scale(-0.1)
    ),
}


@pytest.mark.parametrize("name", [n for n, tx in BENT.items() if tx is not None])
def test_momentum_that_is_bent(name):
    with pytest.raises(ValueError, match="isn't linear in its momentum"):
        traced(BENT[name])


PASSED = {
    "a sign": optax.chain(optax.scale_by_sign(), optax.scale(-0.1)),
    "clipped in front": optax.chain(optax.clip(1.0), optax.adam(0.1)),
    "constrained": optax.chain(optax.sgd(0.1, momentum=0.9), optax.scale(2.0)),
    "outside": optax.adamw(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "muon": contrib.muon(0.1),
    "lion": optax.lion(0.1),
}


@pytest.mark.parametrize("name", [*PASSED, *OPTIMIZERS])
def test_what_passes(name):
    optimizer = PASSED[name] if name in PASSED else OPTIMIZERS[name]()
    step, _ = traced(optimizer)
    assert jax.tree.structure(step) == jax.tree.structure(PARAMS)


def test_clipping_belongs_in_front():
    """As the error says: of all K at once."""
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optimizer_aware(aggregators.mean(K), optax.sgd(1.0)),
    )
    updates = gradients(0, ratio=10.0)
    step, _ = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    size = np.linalg.norm(flat(updates))
    aim = jax.tree.map(lambda g: -np.mean(g, axis=0) / size, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=8 * EPS), step, aim)


def test_lion_has_no_linear_momentum():
    with pytest.raises(ValueError, match=r"Lion's, of leaf 'bias'.*certify=True"):
        traced(optax.lion(0.1), include_momentum=True)


def test_muon_of_more_axes():
    params = {"filters": jnp.zeros((3, 4, 5))}
    updates = {"filters": jnp.ones((K, 3, 4, 5))}
    optimizer = contrib.scale_by_muon(
        weight_dimension_numbers={"filters": contrib.MuonDimensionNumbers((0, 1), (2,))}
    )
    with pytest.raises(ValueError, match=r"leaf 'filters' has shape \(3, 4, 5\)"):
        traced(optimizer, params, updates)


def test_complex_gradients():
    params = {"w": jnp.zeros(3, jnp.complex64)}
    updates = {"w": jnp.ones((K, 3), jnp.complex64)}
    with pytest.raises(ValueError, match="leaf 'w' is complex64"):
        traced(optax.adam(0.1), params, updates)


def test_updates_without_the_axis():
    with pytest.raises(ValueError, match="per-objective updates have the"):
        traced(optax.adam(0.1), updates=PARAMS)


def test_another_state():
    tx = optimizer_aware(aggregators.mean(K), optax.adam(0.1))
    with pytest.raises(ValueError, match="must be a OptimizerAwareState"):
        tx.update(gradients(0), optax.adam(0.1).init(PARAMS), PARAMS)


def test_further_batches_are_not_in_the_metric():
    tx = optimizer_aware(aggregators.modo(K), optax.adam(0.1))
    given = gradients(0)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="aren't in the optimizer's metric"):
        jax.eval_shape(lambda g: tx.update(g, state, PARAMS, batches=(g, g)), given)


def test_a_bare_array_is_no_part():
    with pytest.raises(ValueError, match="keeps a ndarray"):
        check_recognised((optax.EmptyState(), np.zeros(3)))
