"""What features say, a block of rows at a time: one compiled shape, constant memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd.clustering import _lloyd
from eagc_jax.gcd.methods import Method
from eagc_jax.gcd.prediction.trained import Trained
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.typing import PyTree

BLOCK = 1024  # rows at once: what lies between two matrix products stays in the cache


class Scored(NamedTuple):
    """Of N rows, as NumPy arrays."""

    clusters: np.ndarray  # (N,) int32
    likelihoods: np.ndarray  # (N,) float32, softmax, of the cluster's category
    distances: np.ndarray  # (N,) float32, squared, to the nearest centre of features
    examples: np.ndarray  # (N,) int32, the example that is most similar
    similarities: np.ndarray  # (N,) float32, the cosine with it


class _Arrays(NamedTuple):
    """What a block is compared with, on the device."""

    model: PyTree  # state of the trained model, or None
    state: PyTree  # of the method, or None
    columns: jax.Array | None  # (K,) int32, where a method assigns
    centres: jax.Array  # (K, D) float32
    seen: jax.Array  # (K, width) float32
    examples: jax.Array  # (M, D) float32, of length 1
    groups: jax.Array  # (K,) int32, the same for clusters that are one category
    temperature: jax.Array


class _Static(NamedTuple):
    """What the compilation depends on."""

    method: Method | None  # that assigns; None for the nearest centre
    graph: nnx.GraphDef[DiscoveryModel] | None
    unit: bool  # rows are scaled to length 1 before the model
    by_distance: bool  # the softmax is of distances whoever assigns


class Scorer:
    """Compares rows with centres, heads and examples.

    Args:
      trained: model and rule; None for the nearest centre.
      centres: (K, D) in the space of the adapted features.
      seen: (K, width) in that of the features that come in.
      examples: (M, D) likewise, M >= 1.
      temperature: of the softmax.
      by_distance: the softmax is of distances to centres; False: of the heads' logits.
      groups: (K,) integers, equal for clusters that are one category; by default each
        is its own.
    """

    def __init__(
        self,
        trained: Trained | None,
        centres: np.ndarray,
        seen: np.ndarray,
        examples: np.ndarray,
        temperature: float,
        *,
        by_distance: bool = True,
        groups: np.ndarray | None = None,
    ):
        graph = model = method = state = columns = None
        unit = trained is not None and trained.unit
        if trained is not None:
            graph, model = nnx.split(trained.model)
        if trained is not None and trained.columns is not None:
            method, state = trained.method, trained.method_state
            columns = jnp.asarray(trained.columns)
        self._static = _Static(method, graph, unit, by_distance)
        self._arrays = _Arrays(
            model,
            state,
            columns,
            jnp.asarray(centres, jnp.float32),
            jnp.asarray(seen, jnp.float32),
            jnp.asarray(examples if len(examples) else _nobody(centres), jnp.float32),
            jnp.asarray(
                np.arange(len(centres)) if groups is None else groups, jnp.int32
            ),
            jnp.float32(temperature),
        )

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, K) what the softmax is of, over the temperature: the largest is assigned.

        (But where the softmax is of distances, and heads assign.)
        """
        parts = [np.zeros((0, len(self._arrays.centres)), np.float32)]
        for start in range(0, len(features), BLOCK):
            block = np.asarray(features[start : start + BLOCK], np.float32)
            found = _logits(self._static, self._arrays, _filled(block))
            parts.append(np.asarray(found)[: len(block)])
        return np.concatenate(parts)

    def __call__(self, features: np.ndarray) -> Scored:
        """Of (N, width) rows, N >= 0; blocks go one ahead of what is read back."""
        waiting, parts = None, []
        for start in range(0, len(features), BLOCK):
            block = np.asarray(features[start : start + BLOCK], np.float32)
            now = _score(self._static, self._arrays, _filled(block)), len(block)
            if waiting is not None:
                parts.append(_read(*waiting))
            waiting = now
        parts.append(_none() if waiting is None else _read(*waiting))
        return Scored(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def classes_of_head(trained: Trained, adapted: np.ndarray) -> np.ndarray:
    """(N,) int32 the head's classes of features that an adapter has seen already."""
    graph, model = nnx.split(trained.model)
    state, parts = trained.method_state, []
    for start in range(0, len(adapted), BLOCK):
        block = np.asarray(adapted[start : start + BLOCK], np.float32)
        found = _classes(trained.method, graph, model, state, _filled(block))
        parts.append(np.asarray(found)[: len(block)])
    return np.concatenate(parts)


def adapted_of(trained: Trained, features: np.ndarray) -> np.ndarray:
    """(N, width) float32 what the adapter makes of features."""
    graph, model = nnx.split(trained.model)
    parts = []
    for start in range(0, len(features), BLOCK):
        block = np.asarray(features[start : start + BLOCK], np.float32)
        found = _adapted(graph, trained.unit, model, _filled(block))
        parts.append(np.asarray(found)[: len(block)])
    return np.concatenate(parts)


def _filled(block: np.ndarray) -> np.ndarray:
    missing = BLOCK - len(block)
    return np.pad(block, ((0, missing), (0, 0))) if missing else block


def _read(found: Sequence[jax.Array], number: int) -> list[np.ndarray]:
    return [np.asarray(x)[:number] for x in found]


def _none() -> list[np.ndarray]:
    kinds = (np.int32, np.float32, np.float32, np.int32, np.float32)
    return [np.zeros(0, kind) for kind in kinds]


def _nobody(centres: np.ndarray) -> np.ndarray:
    """In the place of examples, where nothing is labeled."""
    return np.zeros((1, centres.shape[1]), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _score(static: _Static, arrays: _Arrays, rows: jax.Array):
    given, unit, clusters, scores = _compared(static, arrays, rows)
    at = jnp.take_along_axis(scores, clusters[None], axis=0)
    weights = jnp.exp((at - scores) / arrays.temperature)
    same = arrays.groups[:, None] == arrays.groups[clusters]
    likelihoods = 1 / (1 + jnp.sum(weights * ~same, 0) / jnp.sum(weights * same, 0))
    nearest = _lloyd._nearest(_lloyd._scores(given, arrays.seen))
    distances = jnp.sum((given - arrays.seen[nearest]) ** 2, axis=1)
    products = _lloyd._matmul(arrays.examples, unit.T)  # (M, B)
    examples = _lloyd._nearest(-products)
    return clusters, likelihoods, distances, examples, products.max(axis=0)


@functools.partial(jax.jit, static_argnums=0)
def _logits(static: _Static, arrays: _Arrays, rows: jax.Array):
    *_, scores = _compared(static, arrays, rows)
    return -scores.T / arrays.temperature


def _compared(static: _Static, arrays: _Arrays, rows: jax.Array):
    """Unit rows as given and adapted, clusters, and (K, B) what the softmax is of."""
    given = _unit(rows)
    head: nnx.Module | None = None
    adapted = given if static.unit else rows
    if static.graph is not None:
        model = nnx.merge(static.graph, arrays.model)
        head, adapted = model.head, model.features(adapted)
    unit = _unit(adapted)
    if static.method is None:
        scores = _lloyd._scores(unit, arrays.centres)  # the least is the nearest
    else:
        assert head is not None
        assert arrays.columns is not None
        logits = static.method.assign(head, arrays.state, adapted)
        scores = -jnp.take(logits, arrays.columns, axis=1).T
    clusters = _lloyd._nearest(scores)
    if static.by_distance:
        scores = _lloyd._scores(unit, arrays.centres)
    return given, unit, clusters, scores


@functools.partial(jax.jit, static_argnums=(0, 1))
def _classes(
    method: Method,
    graph: nnx.GraphDef[DiscoveryModel],
    model: PyTree,
    state: PyTree,
    adapted: jax.Array,
) -> jax.Array:
    head = nnx.merge(graph, model).head
    return jnp.argmax(method.assign(head, state, adapted), axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _adapted(
    graph: nnx.GraphDef[DiscoveryModel], unit: bool, model: PyTree, rows: jax.Array
) -> jax.Array:
    return nnx.merge(graph, model).features(_unit(rows) if unit else rows)


def _unit(rows: jax.Array) -> jax.Array:
    return _lloyd._rescaled(rows, *_lloyd._scales(rows))
