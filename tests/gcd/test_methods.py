"""The methods behind one interface: what each predicts with, and that each trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd.methods import METHODS, Batch, RankStats, SimGCD, VanillaGCD
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.settings import FeatureCoordination
from tests.gcd import tiny

SETTINGS = {"rankstats": {}, "gcd": {"head_hidden": 8, "head_projection": 6}}
FEATURES = jax.random.normal(jax.random.key(1), (8, 6))
BATCH = Batch(jnp.array([0, 1, -1, -1]), jnp.arange(4) < 2, jnp.float32(0), num_known=2)


def head_of(method):
    return nnx.jit(lambda: method.build_head(6, 5, rngs=nnx.Rngs(0)))()


def test_every_method_goes_by_its_name():
    assert {name: kind().name for name, kind in METHODS.items()} == {
        name: name for name in METHODS
    }
    for kind in METHODS.values():
        assert kind() == kind()
        assert hash(kind()) == hash(kind())  # equal settings share a compilation
        assert kind().objective_names == ("supervised", "unsupervised")
    assert SimGCD(supervised_weight=0.2).objective_weights == (0.2, 0.8)
    assert VanillaGCD().objective_weights == (0.35, 0.65)
    assert RankStats(unsupervised_weight=2.0).objective_weights == (1.0, 2.0)


@pytest.mark.parametrize("method", [SimGCD(), RankStats()], ids=lambda m: m.name)
def test_classifiers_predict_the_nearest_prototype(method):
    head = head_of(method)
    classifier = head.classifier if method.name == "simgcd" else head
    prototypes = np.asarray(classifier.kernel[...], np.float64)
    prototypes /= np.linalg.norm(prototypes, axis=0)
    expected = (np.asarray(FEATURES, np.float64) @ prototypes).argmax(axis=1)
    found = method.predict(head, FEATURES, np.full(8, -1), 5, 0)
    np.testing.assert_array_equal(found, expected)


def test_vanilla_gcd_predicts_clusters_that_keep_the_labels():
    method = VanillaGCD()
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 20)
    features = 5 * np.eye(3)[classes] + rng.normal(size=(60, 3)) / 4
    labels = np.where((classes < 2) & (np.arange(60) % 2 == 0), classes, -1)
    found = method.predict(None, features.astype(np.float32), labels, 3, 0)
    np.testing.assert_array_equal(found, classes)  # the third is what is left
    # Labeled wrongly on purpose: a labeled image stays what its label says.
    labels[0] = 1
    assert method.predict(None, features.astype(np.float32), labels, 3, 0)[0] == 1


def test_labels_do_not_push_novel_classes_down_in_rankstats():
    method = RankStats()
    graphdef, params = nnx.split(head_of(method))

    @jax.jit
    @jax.grad
    def gradient(params):
        return method.objectives(nnx.merge(graphdef, params), FEATURES, BATCH)[0]

    kernel = np.asarray(nnx.to_pure_dict(gradient(params))["kernel"])
    assert np.all(kernel[:, 2:] == 0)
    assert np.all(np.abs(kernel[:, :2]).sum(axis=0) > 0)


def test_consistency_counts_more_after_the_ramp_up():
    method = RankStats(rampup_epochs=4)
    head = head_of(method)
    early, late = (
        method.objectives(head, FEATURES, BATCH._replace(epoch=jnp.float32(epoch)))
        for epoch in (0, 4)
    )
    assert early[0] == late[0]
    assert early[1] < late[1]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("rankstats", "gcd")],
)
def test_it_trains_with_an_aggregator_and_at_the_feature(split, backbone, name):
    run = TrainingRun(
        dataclasses.replace(tiny.CONFIG, epochs=1, log_every=0),
        split,
        backbone,
        Aggregation("pcgrad").build((1.0, 1.0)),
        method=METHODS[name](**SETTINGS[name]),
        coordination=FeatureCoordination(),
    )
    before = nnx.to_pure_dict(nnx.state(run.model.head, nnx.Param))
    assert list(run) == [1]
    after = nnx.to_pure_dict(nnx.state(run.model.head, nnx.Param))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved))
    assert run.evaluation.predictions.max() < split.num_classes
    assert np.all(np.isfinite(run.history.traces[0].losses))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (RankStats, "temperature", 0.0),
        (RankStats, "top_k", 0),
        (RankStats, "consistency_weight", -1.0),
        (VanillaGCD, "supervised_weight", 1.5),
        (VanillaGCD, "restarts", 0),
        (VanillaGCD, "unsupervised_temperature", -1.0),
    ],
)
def test_wrong_settings_name_the_field(kind, field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        kind(**{field: value})
