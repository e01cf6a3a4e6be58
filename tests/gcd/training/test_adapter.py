"""Training on features: the adapter, views by noise and neighbours, a warm start."""

import dataclasses
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gcd.methods import METHODS, SimGCD
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import ArrayItems, Records
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.augmentation import Augmentation, augment
from eagc_jax.gcd.training.inputs import (
    FeatureInputs,
    Neighbours,
    images_of,
    unit_rows,
)
from eagc_jax.gcd.training.model import ResidualAdapter
from eagc_jax.gcd.training.settings import (
    AdapterConfig,
    FeatureCoordination,
    ReferenceConfig,
    TrainConfig,
    WarmStart,
)
from eagc_jax.gcd.training.view_features import view_features

CLASSES, EACH, WIDTH = 4, 24, 8
CONFIG = TrainConfig(
    epochs=2,
    batch_size=32,
    log_every=2,
    trains="adapter",
    adapter=AdapterConfig(hidden=4, noise=0.1, rate=0.5),
    warm_start=WarmStart(epochs=1),
)
RUN = RunSettings(
    SimGCD(head_hidden=8, head_projection=6), CONFIG, Aggregation("upgrad")
)


@pytest.fixture(scope="module")
def records():
    """Four clouds, two of them known, on the axes; half of the known ones labeled."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(CLASSES), EACH).astype(np.int32)
    rows = 3 * np.eye(WIDTH)[truth] + 0.3 * rng.normal(size=(len(truth), WIDTH))
    labels = np.where((truth < 2) & (np.arange(len(truth)) % 2 == 0), truth, -1)
    return Records(
        "clouds",
        "embedding",
        ArrayItems(rows.astype(np.float32)),
        ids=tuple(map(str, range(len(truth)))),
        labels=labels.astype(np.int32),
        class_names=("a", "b", "c", "d"),
        num_known=2,
        truth=truth,
    )


@pytest.fixture(scope="module")
def run(records):
    run = RUN.start(records, features=records.items.array, name="upgrad")
    run.at_first = nnx.to_pure_dict(nnx.state(run.model, nnx.Param))
    assert list(run) == [1, 2]
    return run


def test_it_starts_from_the_features_as_they_are(run, records):
    unlabeled = ~records.labeled_mask
    expected = unit_rows(records.items.array)[unlabeled]
    np.testing.assert_allclose(run.pretrained_features, expected, atol=1e-6)


def test_the_adapter_and_the_heads_train(run):
    after = nnx.to_pure_dict(nnx.state(run.model, nnx.Param))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), run.at_first, after)
    assert all(jax.tree.leaves(moved))
    assert set(after) == {"adapter", "head"}
    names = run.history.parameters
    assert "adapter/outer/kernel" in names
    assert np.isfinite(run.history.gradient_deviation).all()


def test_clouds_are_found_from_the_warm_start_on(run):
    # Nothing overlaps: k-means gives each cloud its prototype, and training keeps them.
    assert run.history.accuracy[-1].all == 1.0


def test_weights_are_on_record_as_gates_would_be(run):
    history = run.history
    assert history.decision == "weight"
    assert history.layers == ["global"]
    assert history.decided[0].shape == (2, 1)
    assert history.traces[0].gates.shape == (3, 2, 1)
    assert history.energy == []
    # Rescaled, so that the learning rate may stay: two objectives, two in all.
    np.testing.assert_allclose(np.sum(history.decided[-1]), 2, rtol=1e-5)


def test_the_same_seed_gives_the_same_run(run, records):
    again = RUN.start(records, features=records.items.array)
    list(again)
    assert again.history.losses == run.history.losses
    np.testing.assert_array_equal(
        again.evaluation.predictions, run.evaluation.predictions
    )


def test_heads_alone_train_where_nothing_else_does(records):
    config = dataclasses.replace(CONFIG, trains="nothing", epochs=1, warm_start=None)
    settings = dataclasses.replace(RUN, training=config)
    blind = dataclasses.replace(records, truth=None)
    run = settings.start(blind, features=records.items.array, num_classes=5)
    assert list(run) == [1]
    assert set(nnx.to_pure_dict(nnx.state(run.model, nnx.Param))) == {"head"}
    assert np.isnan(run.evaluation.accuracy.all)  # nobody knows
    assert run.evaluation.predictions.max() < 5


def test_what_is_missing_is_said(records):
    with pytest.raises(ValueError, match="features are needed where adapter trains"):
        RUN.start(records)
    with pytest.raises(ValueError, match="row for each of the 96 items, got 95"):
        RUN.start(records, features=records.items.array[:95])
    blind = dataclasses.replace(records, truth=None)
    with pytest.raises(ValueError, match="num_classes is needed: clouds has no true"):
        RUN.start(blind, features=records.items.array)
    with pytest.raises(ValueError, match="at least the 2 known classes, got 1"):
        RUN.start(records, features=records.items.array, num_classes=1)
    for field, value in {
        "noise": -1.0,
        "neighbours": -1,
        "hidden": 0,
        "rate": 0,
    }.items():
        with pytest.raises(ValueError, match=f"{field} must be"):
            AdapterConfig(**{field: value})
    with pytest.raises(ValueError, match="trains must be one of"):
        TrainConfig(trains="everything")


def test_the_adapter_is_nothing_at_first():
    @nnx.jit
    def both(features):
        adapter = ResidualAdapter(WIDTH, 4, rngs=nnx.Rngs(0))
        return adapter(features)

    features = jax.random.normal(jax.random.key(0), (5, WIDTH))
    np.testing.assert_array_equal(both(features), features)


def test_noise_has_the_length_that_was_asked_for_and_rows_stay_unit():
    inputs = FeatureInputs(np.eye(200, dtype=np.float32), noise=0.6)
    rows = np.arange(200)[None]
    read = inputs.read(rows, jax.random.split(jax.random.key(0), 1), np.arange(200))
    assert read.shape == (1, 2, 200, 200)
    views = np.asarray(inputs.view(jax.random.key(1), jnp.asarray(read[0]), None))
    np.testing.assert_allclose(np.linalg.norm(views, axis=1), 1, rtol=1e-5)
    first, second = np.split(views, 2)
    assert np.all(np.any(first != second, axis=1))
    # A unit row r and noise n of length 0.6: the cosine of (r + n) and r is nearly
    # 1 / sqrt(1 + 0.36), its deviation over 400 rows of 200 channels about 0.03 each.
    cosine = np.concatenate([np.diag(first), np.diag(second)]).mean()
    assert abs(cosine - 1 / np.sqrt(1.36)) < 0.01


def test_unlabeled_rows_get_a_neighbour_or_themselves_for_second_view():
    features = np.eye(6, dtype=np.float32)
    table = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]], np.int32)
    unlabeled = np.array([True] * 5 + [False])
    inputs = FeatureInputs(features, neighbours=Neighbours(table, unlabeled))
    rows = np.tile(np.arange(6), (300, 1))
    keys = jax.random.split(jax.random.key(0), 300)
    read = inputs.read(rows, keys, np.arange(6)).argmax(axis=-1)
    np.testing.assert_array_equal(read[:, 0], rows)
    second = read[:, 1]
    assert np.all(second[:, 5] == 5)  # labeled: the item itself
    for item in range(5):
        numbers, counts = np.unique(second[:, item], return_counts=True)
        assert set(numbers) == {item, *table[item]}
        # 300 draws of three: 100 each, standard deviation 8.
        assert np.all(np.abs(counts - 100) < 45)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simgcd", "rankstats", "gcd"])
def test_any_method_aggregator_and_the_coordinator_run_on_features(records, name):
    settings = RunSettings(
        METHODS[name](),
        dataclasses.replace(CONFIG, epochs=1),
        Aggregation("eagc", {"preset": "article", "granularity": "tensor"}),
        FeatureCoordination(refresh_epochs=1),
    )
    run = settings.start(records, features=records.items.array)
    untrained = np.asarray(run.coordinator.conceptor)
    assert list(run) == [1]
    assert run.history.decision == "gate"
    assert np.all(np.isfinite(run.history.traces[0].labeled_reference))
    # The model after the warm start is the reference, so its conceptor is another.
    reference = run._constants.reference["adapter"]["outer"]["kernel"]
    assert np.any(np.asarray(reference) != 0)
    assert np.any(np.asarray(run.coordinator.conceptor) != untrained)
    assert run.evaluation.accuracy.all > 0.9


def test_a_reference_model_is_for_images(records):
    settings = dataclasses.replace(RUN, reference=ReferenceConfig())
    with pytest.raises(ValueError, match=r"reference is trained by its last blocks"):
        settings.start(records, features=records.items.array)


def test_features_of_views_are_those_of_the_backbone_and_are_kept(split, backbone):
    few = split.select(np.arange(10))
    augmentation = Augmentation()
    with tempfile.TemporaryDirectory() as folder:
        options = {"views": 2, "batch_size": 4, "cache": folder}
        pool = view_features(few, backbone, augmentation, **options)
        again = view_features(few, backbone, augmentation, **options)
        np.testing.assert_array_equal(again.tokens, pool.tokens)
        assert not again.tokens.flags.writeable
    assert pool.tokens.shape == (10, 2, 8)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 2)
    images = few.items.array if hasattr(few.items, "array") else images_of(few)

    @nnx.jit
    def expected(backbone):  # the last batch: two images, filled up to four
        last = images[np.array([8, 9, 9, 9])]
        return backbone(augment(key, last, augmentation))

    # One compilation against another.
    np.testing.assert_allclose(pool.tokens[8:, 1], expected(backbone)[:2], atol=2e-6)
    flat = pool.tokens.reshape(20, 8)[::2]
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=8, warm_start=None)
    run = dataclasses.replace(RUN, training=config).start(
        few, None, pool, features=flat
    )
    assert list(run) == [1]
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        view_features(few, backbone, augmentation, views=1)
