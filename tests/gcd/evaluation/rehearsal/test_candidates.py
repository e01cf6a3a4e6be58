"""What may answer: k-means, a training, a training with a coordinator."""

import dataclasses

import numpy as np
import pytest

from eagc_jax.gcd.evaluation.rehearsal import (
    coordinated,
    first,
    rehearse,
    trained,
    with_neighbours,
)
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.training import epoch
from eagc_jax.gcd.training.settings import AdapterConfig, TrainConfig, WarmStart
from tests.gcd.evaluation.rehearsal.problems import CLASSES, KNOWN, blobs

SETTINGS = RunSettings(
    SimGCD(head_hidden=8, head_projection=6, teacher_warmup_epochs=1),
    TrainConfig(
        epochs=2,
        batch_size=64,
        learning_rate=0.1,
        final_learning_rate=1e-3,
        trains="adapter",
        adapter=AdapterConfig(hidden=8, neighbours=3),
        warm_start=WarmStart(epochs=1, restarts=2),
        log_every=0,
        evaluate_every=2,
    ),
)


@pytest.fixture(scope="module")
def problem():
    return blobs()


def test_the_first_answer_is_what_its_settings_say(problem):
    records, rows = problem
    found = first(ClusteringSettings(restarts=1, max_iterations=1, balanced=True))
    sizes = np.bincount(found.answer(records, rows, CLASSES, 0))
    assert sizes.max() == len(rows) // CLASSES


def test_trainings_of_a_candidate_share_a_compilation(problem):
    records, rows = problem
    candidate = trained(SETTINGS)
    clusters = candidate.answer(records, rows, CLASSES, 3)
    labeled = records.labeled_mask
    np.testing.assert_array_equal(clusters[labeled], records.labels[labeled])
    compiled = epoch.run_steps._cache_size()
    found = rehearse(records, rows, [first(), candidate], num_classes=CLASSES)
    assert epoch.run_steps._cache_size() == compiled
    assert [one.name for one in found.candidates] == ["first answer", "trained"]
    assert [len(one.trials) for one in found.candidates] == [3, 3]
    hidden = [c for trial in found.candidates[1].trials for c in trial.classes]
    assert sorted(hidden) == list(range(KNOWN))
    again = candidate.answer(records, rows, CLASSES, 3)
    np.testing.assert_array_equal(again, clusters)


def test_coordinators_are_named_and_have_to_exist():
    one, two = coordinated(SETTINGS, ["pcgrad", "eagc"])
    assert (one.name, two.name) == ("trained, pcgrad", "trained, eagc")
    assert one.settings.aggregator.name == "pcgrad"
    assert dataclasses.replace(one.settings, aggregator=None) == SETTINGS
    with pytest.raises(ValueError, match="name must be one of"):
        coordinated(SETTINGS, ["best"])


def test_neighbours_are_rehearsed_against_each_other(problem):
    few, none = with_neighbours(SETTINGS, [3, 1, 0, 1])  # 3 are the settings' own
    assert (few.name, none.name) == ("trained, 1 neighbour", "trained, no neighbours")
    assert few.settings.training.adapter.neighbours == 1
    assert none.settings.training.adapter.neighbours == 0
    (most,) = with_neighbours(SETTINGS, [50, 90], items=21)
    assert most.name == "trained, 20 neighbours"
    records, rows = problem
    found = rehearse(records, rows, [trained(SETTINGS), none], num_classes=CLASSES)
    assert [one.name for one in found.candidates] == ["trained", none.name]
    ours, theirs = (one.trials[0].classes for one in found.candidates)
    assert ours == theirs
    with pytest.raises(ValueError, match="neighbours must be at least 0"):
        with_neighbours(SETTINGS, [-1])


def test_a_training_without_such_views_has_no_other_neighbours():
    views = AdapterConfig(hidden=8, augmented_views=2)
    training = dataclasses.replace(SETTINGS.training, adapter=views)
    assert with_neighbours(dataclasses.replace(SETTINGS, training=training), [5]) == []
