"""How items are answered for: the first answer, a training run, what it says."""

from __future__ import annotations

import os

import jax
import numpy as np

from eagc_jax.gcd import clustering
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.clustering import Clustering
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.checkpoints import Checkpoints
from eagc_jax.gcd.training.loop import TrainingRun


def first_answer(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    settings: ClusteringSettings,
    seed: int,
) -> Clustering:
    """Semi-supervised k-means on the features.

    Args:
      features: (N, D) floats.
      labels: (N,) integers, -1 where there is none.
      num_classes: known plus novel classes.
      settings: of k-means; their own number of classes plays no part.
      seed: of its starts.

    Returns:
      The clustering; known classes are its first clusters.
    """
    return clustering.semi_supervised_kmeans(
        jax.random.key(seed),
        features,
        num_classes,
        labels,
        labels >= 0,
        restarts=settings.restarts,
        max_iterations=settings.max_iterations,
        balanced=settings.balanced,
    )


def start(
    settings: RunSettings,
    records: Records,
    network: Backbone | None,
    features: np.ndarray,
    *,
    num_classes: int,
    neighbours: np.ndarray | None = None,
    cache: str | os.PathLike[str] | None = None,
    name: str = "discover",
    checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
) -> TrainingRun:
    """A run on the items where blocks of the backbone train, else on their features.

    Args:
      settings: of the run.
      records: the items.
      network: the backbone; needed where its blocks train, or for augmented views.
      features: (N, D), of the frozen backbone.
      num_classes: known plus novel classes.
      neighbours: (N, k), each item's nearest others; None to find them where they count.
      cache: folder in which neighbours and features of views are kept, or None.
      name: of the run.
      checkpoints: folder in which it is saved, to go on from there, or how often as
        well; or None.

    Returns:
      The run, to iterate over.

    Raises:
      ValueError: blocks should train, and the backbone has none; or as `RunSettings`.
    """
    if settings.training.trains != "blocks":
        return settings.start(
            records,
            network,
            features=features,
            neighbours=neighbours,
            num_classes=num_classes,
            cache=cache,
            name=name,
            checkpoints=checkpoints,
        )
    if network is None or not network.depth:
        raise ValueError(
            "trains = 'blocks' needs a backbone with blocks, such as a vit; this one "
            "has none: train an adapter on its features, trains = 'adapter'"
        )
    return settings.start(
        records, network, num_classes=num_classes, name=name, checkpoints=checkpoints
    )


def after(run: TrainingRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a run says of its items after its last epoch.

    Args:
      run: that was trained.

    Returns:
      (N, D) features; (N,) clusters, of labeled items their class; and (K, D) centres of
      all the run's clusters, zero where nobody is in one.
    """
    clusters, features = run.assign()
    labels = run.records.labels
    clusters = np.where(labels >= 0, labels, clusters)
    return features, clusters, means(features, clusters, run.task.num_classes)


def means(features: np.ndarray, clusters: np.ndarray, number: int) -> np.ndarray:
    """(number, D) means of features of length 1; zero where nobody is in a cluster."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    sums = np.zeros((number, features.shape[1]))
    np.add.at(sums, clusters, features / np.maximum(lengths, 1e-12))
    sizes = np.bincount(clusters, minlength=number)
    return sums / np.maximum(sizes, 1)[:, None]
