"""From chunks of items to answers: embedded where need be, assigned, bad ones named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from eagc_jax.gcd.backbones import Backbone, batches
from eagc_jax.gcd.prediction.items import Chunk
from eagc_jax.gcd.prediction.predictor import Predictor
from eagc_jax.gcd.sources.records import BadItem, Items, Records
from eagc_jax.gcd.sources.strings import RowNumbers

_NOT_FINITE = "its feature is not finite (NaN or infinite)"


class Answer(NamedTuple):
    """Of a chunk."""

    batch: pa.RecordBatch  # as `Prediction.batch`, of the items that could be read
    bad: tuple[BadItem, ...]  # all others


class Assigner:
    """Assigns chunk after chunk; what embeds is loaded, and compiled, when it is needed.

    Args:
      predictor: what assigns.
      network: the discovery's backbone, where it is one that only Python has.
      batch_size: items that are embedded at once; by default as `backbones.embed`.
    """

    def __init__(
        self,
        predictor: Predictor,
        network: Backbone | None = None,
        batch_size: int | None = None,
    ):
        self._predictor, self._network = predictor, network
        self._size = batch_size or batches.default_batch_size()
        self._embed: Callable[[Items], tuple[np.ndarray, list[str]]] | None = None

    def __call__(self, chunk: Chunk) -> Answer:
        """The answer; raises ValueError where embeddings are not the discovery's."""
        if not len(chunk.names):
            batch = self._predictor.predict(
                np.zeros((0, self._predictor.width), np.float32)
            )
            return Answer(batch.batch(chunk.names), chunk.bad)
        if isinstance(chunk.items, np.ndarray):
            features, reasons = self._checked(chunk.items)
        else:
            if self._embed is None:
                network = self._predictor.load_backbone(self._network)
                self._embed = _embedder(network, self._size)
            features, reasons = self._embed(chunk.items)
        bad = np.array([reason != "" for reason in reasons], bool)
        found = self._predictor.predict(features[~bad])
        names = chunk.names.filter(pa.array(~bad)) if bad.any() else chunk.names
        told = tuple(
            BadItem(chunk.names[row].as_py(), reasons[row])
            for row in np.flatnonzero(bad).tolist()
        )
        return Answer(found.batch(names), (*chunk.bad, *told))

    def _checked(self, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
        predictor = self._predictor
        if predictor.blocks:
            raise ValueError(
                "the discovery trained blocks of its backbone: give the items, "
                "not embeddings of before"
            )
        if rows.shape[1] != predictor.width:
            raise ValueError(
                f"embeddings must have {predictor.width} numbers each, as the "
                f"discovery's, got {rows.shape[1]}"
            )
        rows = np.asarray(rows, np.float32)
        reasons = [""] * len(rows)
        for row in np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
            reasons[row] = _NOT_FINITE
        return rows, reasons


def _embedder(
    network: Backbone, size: int
) -> Callable[[Items], tuple[np.ndarray, list[str]]]:
    """From items to features and, of each, why it has none or ""; compiled once."""
    forward = batches.forward(network, size)
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 16))

    def embedded(items: Items) -> tuple[np.ndarray, list[str]]:
        number = len(items)
        records = Records(
            "items", network.kind, items, RowNumbers(number), np.full(number, -1), (), 0
        )
        features = np.zeros((number, network.width), np.float32)
        reasons = [""] * number
        good = _good(
            batches.prepared(records, network, np.arange(number), size, pool), reasons
        )
        cut = batches.batches(good, size, batches.window(network, size))
        results = (
            (np.array([i for i, _ in batch]), forward([item for _, item in batch]))
            for batch in cut
        )
        for which, found in batches.one_behind(results):
            features[which] = np.asarray(found)[: len(which)]
        for row in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
            reasons[row] = _NOT_FINITE
        return features, reasons

    return embedded


def _good(
    prepared: Iterator[batches.Prepared], reasons: list[str]
) -> Iterator[batches.Prepared]:
    for number, item in prepared:
        if isinstance(item, BadItem):
            reasons[number] = item.reason
        else:
            yield number, item
