"""What a run makes of the unlabeled items: clusters, and how good they are."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax import diagnostics, features
from eagc_jax.gcd.evaluation.accuracy import Accuracy, cluster_accuracy
from eagc_jax.gcd.methods import Method
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.training.epoch import assigned
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination
from eagc_jax.typing import Params, PyTree

SOC_COMPONENTS = 16  # as published
_BLOCK = 4096  # items that are assigned at once
_NAN = float("nan")


class Evaluation(NamedTuple):
    """What the model makes of the unlabeled items, without augmentation."""

    accuracy: Accuracy  # NaN where no true classes are known
    predictions: np.ndarray  # (N,) cluster numbers
    features: np.ndarray  # (N, width) float32
    subspace_overlap: float  # SOC of novel items with labeled ones; needs true classes


def not_evaluated() -> Evaluation:
    """Of an epoch that was not evaluated."""
    empty = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    return Evaluation(Accuracy(_NAN, _NAN, _NAN), *empty, _NAN)


def assign_all(
    method: Method,
    graphdef: nnx.GraphDef[DiscoveryModel],
    params: dict[str, Params],
    frozen: PyTree,
    state: PyTree,
    found: np.ndarray,
) -> np.ndarray:
    """(N,) cluster numbers of (N, width) features, a block at a time."""
    size = min(_BLOCK, len(found))
    parts = []
    for start in range(0, len(found), size):
        block = found[start : start + size]
        rows = np.minimum(np.arange(size), len(block) - 1)  # one shape
        some = assigned(method, graphdef, params, frozen, state, block[rows])
        parts.append(np.asarray(some)[: len(block)])
    return np.concatenate(parts)


def evaluate(records: Records, found: np.ndarray, clusters: np.ndarray) -> Evaluation:
    """Scores clusters (N,) and features (N, width) of all items, where truth is known."""
    unlabeled = ~records.labeled_mask
    accuracy, overlap = Accuracy(_NAN, _NAN, _NAN), _NAN
    if records.truth is not None:
        old = records.old_mask
        accuracy = cluster_accuracy(
            records.truth[unlabeled], clusters[unlabeled], old[unlabeled]
        )
        overlap = _overlap(
            found[records.labeled_mask],
            found[~old],
            k=min(SOC_COMPONENTS, found.shape[1]),
        )
    return Evaluation(accuracy, clusters[unlabeled], found[unlabeled], float(overlap))


# One compilation each; op by op, there would be dozens.
_overlap = jax.jit(diagnostics.subspace_overlap, static_argnames="k")


def coordinator_of(
    settings: FeatureCoordination, found: np.ndarray, records: Records
) -> features.CoordinatorState:
    """Conceptor and labeled reference of the labeled items' features."""
    return _coordinator_of(settings, np.asarray(found)[records.labeled_mask])


@functools.partial(jax.jit, static_argnums=0)
def _coordinator_of(
    settings: FeatureCoordination, labeled: jax.Array
) -> features.CoordinatorState:
    normalize, center = settings.normalize, None
    if settings.center:
        rows = labeled
        if normalize:
            rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        center = rows.mean(axis=0)
    conceptor = features.conceptor(
        labeled, settings.aperture, normalize=normalize, center=center
    )
    energies = features.energy_ratio(
        labeled, conceptor, normalize=normalize, center=center
    )
    return features.init_coordinator(conceptor, energies, center=center)
