"""Settings that are changed one by one."""

import pytest

from eagc_jax.gcd.methods import RankStats
from eagc_jax.gcd.settings.changing import changed, with_epochs
from eagc_jax.gcd.settings.running import RunSettings, on_features
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.settings import FeatureCoordination, WarmStart


def test_nothing_changed_is_the_same():
    assert changed(on_features(), []) == on_features()


def test_any_setting_has_a_name():
    found = changed(
        RunSettings(),
        [
            *(
                "training.epochs=3",
                "method.entropy_weight=1.5",
                "training.trains=adapter",
            ),
            *("training.adapter.noise=0.25", "aggregator=upgrad"),
            *("aggregator.options.granularity=tensor", "coordination.eep_weight=0.2"),
            *("training.warm_start={}", "training.augmentation.flip=0.5"),
        ],
    )
    assert (found.training.epochs, found.method.entropy_weight) == (3, 1.5)
    assert (found.training.trains, found.training.adapter.noise) == ("adapter", 0.25)
    assert found.aggregator == Aggregation("upgrad", {"granularity": "tensor"})
    assert found.coordination == FeatureCoordination(eep_weight=0.2)
    assert found.training.warm_start == WarmStart()
    assert found.training.augmentation.flip == 0.5
    gone = changed(found, ["aggregator=null", "coordination=null"])
    assert (gone.aggregator, gone.coordination) == (None, None)


def test_another_method_has_its_own_defaults():
    found = changed(on_features(), ["method=rankstats", "method.top_k=3"])
    assert found.method == RankStats(top_k=3)
    assert found.training == on_features().training


def test_schedules_are_stretched_with_the_epochs():
    assert with_epochs(on_features(epochs=20), 10) == on_features(epochs=10)
    found = with_epochs(changed(on_features(), ["method=rankstats"]), 40)
    assert (found.training.epochs, found.method.rampup_epochs) == (40, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs", "NAME=VALUE, got 'training.epochs'"),
        ("=3", "NAME=VALUE"),
        ("training.epoch=3", r"extra fields found \(epoch\)"),
        ("training.epochs=0", "epochs must be at least 1, got 0"),
        ("training.epochs=many", "training.epochs|invalid"),
        ("training.epochs.more=3", "no setting training.epochs.more"),
        ("method=nothing", "method must be one of"),
        ("aggregator=nothing", "name must be one of sum, eagc"),
        ("aggregator.options.granularity=tensor", "name"),
        ("nothing=3", r"extra fields found \(nothing\)"),
        ("training.trains=all", "training.trains"),
    ],
)
def test_what_is_no_setting_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        changed(RunSettings(), [change])


def test_an_aggregators_options_are_checked_at_once():
    with pytest.raises(ValueError, match=r"aggregator upgrad: .*granule"):
        changed(RunSettings(), ["aggregator=upgrad", "aggregator.options.granule=1"])
