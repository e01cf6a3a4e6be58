"""The methods behind one interface: what each predicts with, and that each trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd.clustering import semi_supervised_kmeans
from eagc_jax.gcd.methods import (
    METHODS,
    Batch,
    DataView,
    RankStats,
    SimGCD,
    Task,
    VanillaGCD,
)
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.settings import FeatureCoordination
from tests.gcd import tiny

SETTINGS = {"rankstats": {}, "gcd": {"head_hidden": 8, "head_projection": 6}}
FEATURES = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
BATCH = Batch(np.array([0, 1, -1, -1]), np.arange(4) < 2, np.float32(0), num_known=2)


def head_of(method):
    return nnx.jit(lambda: method.build_head(6, 5, rngs=nnx.Rngs(0)))()


assigned = nnx.jit(
    lambda method, head, rows: method.assign(head, (), rows), static_argnums=0
)


def test_every_method_goes_by_its_name():
    assert {name: kind().name for name, kind in METHODS.items()} == {
        name: name for name in METHODS
    }
    for kind in METHODS.values():
        assert kind() == kind()
        assert hash(kind()) == hash(kind())  # equal settings share a compilation
        assert kind().objective_names == ("supervised", "unsupervised")
        assert kind().objective_roles == ("labeled", "unlabeled")
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
    found = np.argmax(assigned(method, head, FEATURES), axis=1)
    np.testing.assert_array_equal(found, expected)
    centres = np.eye(5, 6, dtype=np.float32)
    moved = method.with_centres(head, jnp.asarray(3 * centres))
    logits = assigned(method, moved, centres)
    np.testing.assert_allclose(logits, np.eye(5), atol=1e-6)


def test_vanilla_gcd_predicts_clusters_of_all_items():
    method = VanillaGCD()
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 20)
    features = 5 * np.eye(3)[classes] + rng.normal(size=(60, 3)) / 4
    labels = np.where((classes < 2) & (np.arange(60) % 2 == 0), classes, -1)
    rows = features.astype(np.float32)
    task = Task(num_items=60, num_known=2, num_classes=3, width=3)
    view = DataView(lambda: rows, labels, task, seed=0, epoch=1)
    state = method.before_assignment(None, method.init(task), view)
    assert state.shape == method.init(task).shape
    found = method.assign(None, state, jnp.asarray(rows)).argmax(axis=1)
    np.testing.assert_array_equal(found, classes)  # the third is what is left
    clustered = semi_supervised_kmeans(jax.random.key(0), rows, 3, labels, labels >= 0)
    np.testing.assert_array_equal(found, clustered.assignments)


def test_a_warm_start_has_no_say_in_novel_prototypes():
    for method in (SimGCD(), RankStats()):
        graphdef, params = nnx.split(head_of(method))

        @jax.jit
        @jax.grad
        def gradient(params, method=method, graphdef=graphdef):
            head = nnx.merge(graphdef, params)
            return method.warm_objectives(head, (), FEATURES, BATCH)[0][1]

        found = nnx.to_pure_dict(gradient(params))
        kernel = found["classifier" if method.name == "simgcd" else "kernel"]
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(kernel))


def test_labels_do_not_push_novel_classes_down_in_rankstats():
    method = RankStats()
    graphdef, params = nnx.split(head_of(method))

    @jax.jit
    @jax.grad
    def gradient(params):
        return method.objectives(nnx.merge(graphdef, params), (), FEATURES, BATCH)[0][0]

    kernel = np.asarray(nnx.to_pure_dict(gradient(params))["kernel"])
    assert np.all(kernel[:, 2:] == 0)
    assert np.all(np.abs(kernel[:, :2]).sum(axis=0) > 0)


def test_consistency_counts_more_after_the_ramp_up():
    method = RankStats(rampup_epochs=4)
    head = head_of(method)

    @nnx.jit
    def losses(head, epoch):
        batch = BATCH._replace(epoch=epoch)
        return method.objectives(head, (), FEATURES, batch)[0]

    early, late = (losses(head, np.float32(epoch)) for epoch in (0, 4))
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
