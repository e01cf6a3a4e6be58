"""Images, sentences and tables as arrays: what comes along, or what the user names."""

from __future__ import annotations

import functools
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from benchmarks.evidence.task import Given
from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.sources import Records


class Labeled(NamedTuple):
    """Items with their classes."""

    items: np.ndarray  # (N, ...)
    classes: np.ndarray  # (N,) int32
    names: tuple[str, ...]  # of the classes


class Halves(NamedTuple):
    """A part to train on, and one to measure on."""

    train: Labeled
    test: Labeled


def images(name: str, given: Given) -> Labeled:
    """``(N, side, side)`` float32 in [0, 1] of a named data set.

    Raises:
      FileNotFoundError: it isn't there; ``--data`` names its folder.
    """
    records = sources.load(name, given.data.get(name))
    pixels = np.stack([np.asarray(records.items[i]) for i in range(len(records))])
    pixels = pixels[..., 0].astype(np.float32)
    return _labeled(pixels / max(float(pixels.max()), 1e-6), records)


def sentences(name: str, given: Given) -> Labeled:
    """``(N,)`` texts of a named data set."""
    records = _records(name, given.data.get(name))
    texts = np.array([str(records.items[i]) for i in range(len(records))], object)
    return _labeled(texts, records)


def features(name: str, given: Given) -> Labeled:
    """``(N, 384)`` features of sentences by the package's default text backbone.

    Of unit length on average, and cached by content.

    Raises:
      FileNotFoundError, ImportError: the data, or the backbone's weights, aren't there.
    """
    records = _records(name, given.data.get(name))
    if given.small:
        rows = np.random.default_rng(0).normal(size=(len(records), 12))
    else:
        backbone = backbones.load(backbones.default_backbone("text"))
        cache = backbones.cache.default_folder()
        rows = backbones.embed(records, backbone, cache=cache).features
    rows = rows / np.sqrt(np.mean(np.sum(rows**2, axis=1)))
    return _labeled(rows.astype(np.float32), records)


def halves(labeled: Labeled, given: Given, test: float = 0.25) -> Halves:
    """Two parts, drawn once: all seeds train on the same items."""
    order = np.random.default_rng(0).permutation(len(labeled.items))
    if given.small:
        order = order[:240]
    cut = round(len(order) * test)

    def part(rows: np.ndarray) -> Labeled:
        return Labeled(labeled.items[rows], labeled.classes[rows], labeled.names)

    return Halves(part(order[cut:]), part(order[:cut]))


def table(name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A table that scikit-learn bundles: (N, columns), standardized, and their names."""
    loaders = {
        "breast-cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
    }
    found: Any = loaders[name]()
    columns = np.asarray(found["data"])
    standard = (columns - columns.mean(0)) / columns.std(0)
    return standard.astype(np.float32), tuple(found["feature_names"])


def on_device(labeled: Labeled, prefix: str = "") -> dict[str, jnp.ndarray]:
    """As arrays for a task's ``data``."""
    return {
        f"{prefix}x": jnp.asarray(labeled.items, jnp.float32),
        f"{prefix}y": jnp.asarray(labeled.classes, jnp.int32),
    }


@functools.cache
def _records(name: str, path: pathlib.Path | None) -> Records:
    return sources.load(name, path)


def _labeled(items: np.ndarray, records: Records) -> Labeled:
    if records.truth is None:
        raise ValueError(f"{records.name} must have a class for every item, has none")
    return Labeled(items, records.truth.astype(np.int32), records.class_names)
