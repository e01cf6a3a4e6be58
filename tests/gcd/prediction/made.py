"""Discoveries that predictors are fitted to, each made once for all tests."""

import dataclasses
import functools
import pathlib
import tempfile

import numpy as np

from eagc_jax.gcd import (
    ClusteringSettings,
    DiscoverSettings,
    SourceSettings,
    discover,
    prediction,
)
from eagc_jax.gcd.methods import SimGCD, VanillaGCD
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.training.settings import AdapterConfig, TrainConfig, WarmStart
from tests.gcd import clouds

CONFIG = TrainConfig(
    epochs=1,
    batch_size=16,
    log_every=0,
    trains="adapter",
    adapter=AdapterConfig(hidden=4, noise=0.1),
    warm_start=WarmStart(epochs=1, restarts=10),
)
RUNS = {
    "first": None,
    "adapter": RunSettings(SimGCD(head_hidden=8, head_projection=6), CONFIG),
    "heads": RunSettings(
        SimGCD(head_hidden=8, head_projection=6),
        dataclasses.replace(CONFIG, trains="nothing"),
    ),
    "cold": RunSettings(
        SimGCD(head_hidden=8, head_projection=6),
        dataclasses.replace(CONFIG, warm_start=None),
    ),
    "centres": RunSettings(VanillaGCD(head_hidden=8, head_projection=6), CONFIG),
}


@functools.cache
def discovered(run="first", num_classes=4):
    with tempfile.TemporaryDirectory() as folder:
        path = clouds.write_npz(pathlib.Path(folder))
        settings = DiscoverSettings(
            SourceSettings(str(path)),
            clustering=ClusteringSettings(num_classes=num_classes),
            run=RUNS[run],
            quick=RUNS[run] is None,
        )
        found = discover(settings)
        # The file is gone afterwards.
        items = dataclasses.replace(found.records, items=_InMemory())
        return dataclasses.replace(found, records=items)


class _InMemory:
    def __len__(self):
        return clouds.ROWS

    def __getitem__(self, row):
        return clouds.features()[row]

    def digest(self, row):
        return bytes(16)


@functools.cache
def predictor(run="first", num_classes=4):
    found = discovered(run, num_classes)
    return prediction.fit_predictor(
        found.records,
        np.array(found.features),
        found.assignment,
        found.centres,
        adapted=found.adapted,
        training=found.training,
    )


def same(one, other):
    """Whether two predictions are bitwise the same."""
    names = ("clusters", "probability", "unlike", "nearest", "similarity")
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )
