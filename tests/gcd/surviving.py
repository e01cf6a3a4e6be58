"""A small run of every kind that is saved as it trains; `main` is there to be killed."""

import dataclasses
import os

import jax
import numpy as np
from flax import nnx

from eagc_jax.gcd.backbones import vit as models
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import ArrayItems, Records, pose
from eagc_jax.gcd.training import chunks
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.checkpoints import Checkpoints
from eagc_jax.gcd.training.settings import (
    AdapterConfig,
    FeatureCoordination,
    TrainConfig,
    WarmStart,
)
from tests.gcd import tiny

CLASSES, EACH, WIDTH = 4, 24, 8
METHOD = SimGCD(head_hidden=8, head_projection=6, teacher_warmup_epochs=2)
CONFIG = TrainConfig(
    epochs=3,
    batch_size=32,
    log_every=2,
    trains="adapter",
    adapter=AdapterConfig(hidden=4, noise=0.1, neighbours=2),
    warm_start=WarmStart(epochs=2),
)
RUNS = {
    "adapter": RunSettings(
        METHOD,
        CONFIG,
        Aggregation("eagc"),
        FeatureCoordination(refresh_epochs=2, decay_epochs=3),
    ),
    "nothing": RunSettings(
        METHOD,
        dataclasses.replace(CONFIG, trains="nothing", warm_start=None, log_every=0),
        Aggregation("upgrad"),
    ),
    "blocks": RunSettings(
        METHOD,
        dataclasses.replace(tiny.CONFIG, evaluate_every=2),
        coordination=FeatureCoordination(),
    ),
}


def clouds():
    """Four, two of them known, on the axes; half of the known ones labeled."""
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


def start(kind, checkpoints=None, *, mesh=None, **changes):
    """The run, not yet trained; `changes` of its training's settings."""
    settings = RUNS[kind]
    training = dataclasses.replace(settings.training, **changes)
    settings = dataclasses.replace(settings, training=training)
    more = {"checkpoints": checkpoints, "mesh": mesh}
    if kind != "blocks":
        records = clouds()
        return settings.start(records, features=records.items.array, **more)
    vit = nnx.jit(lambda: models.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(0)))()
    return settings.start(pose(tiny.digits(), range(5)), vit, **more)


def in_chunks():
    """A step at a time, instead of all that memory allows."""
    chunks.CHUNK_BYTES = 1


def found(run):
    """All that must be the same, as arrays by name."""
    arrays = {}
    for path, leaf in nnx.to_flat_state(nnx.state(run.model, nnx.Param)):
        arrays["parameter " + ".".join(map(str, path))] = np.asarray(leaf[...])
    history = run.history
    arrays["epochs"] = np.array(history.epochs)
    arrays["accuracy"] = np.array(history.accuracy)
    arrays["overlap"] = np.array(history.subspace_overlap)
    arrays |= {f"loss {k}": np.array(v) for k, v in history.losses.items()}
    for name in ("decided", "energy"):
        for epoch, one in enumerate(getattr(history, name)):
            arrays[f"{name} {epoch}"] = one
    for epoch, trace in enumerate(history.traces):
        arrays |= {f"{k} {epoch}": v for k, v in trace._asdict().items()}
    arrays["names"] = np.array([history.decision or "", *history.layers])
    arrays["predictions"] = run.evaluation.predictions
    arrays["assignment"], arrays["features"] = run.assign()
    return arrays


def assert_same(left, right):
    """To the last bit."""
    assert left.keys() == right.keys()
    for name, one in left.items():
        other = right[name]
        assert one.dtype == other.dtype, name
        assert one.shape == other.shape, name
        assert one.tobytes() == other.tobytes(), name


def main(folder, said, kind, epochs, chunked=""):
    """Trains to the end, as a process of its own; compares with a run not saved.

    It says when it begins and which epoch is over.
    """
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if chunked:
        in_chunks()
    settings = Checkpoints(folder / "checkpoints", within=0 if chunked else 300)
    run = start(kind, settings, epochs=epochs)
    said.send("begins")
    for epoch in run:
        said.send(epoch)
    whole = start(kind, epochs=epochs)
    list(whole)
    assert_same(found(run), found(whole))
