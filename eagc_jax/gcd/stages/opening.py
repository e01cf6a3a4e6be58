"""Data and backbone, as settings describe them."""

from __future__ import annotations

import dataclasses
import os
import warnings

import numpy as np

from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.backbones import Backbone, Embedded
from eagc_jax.gcd.settings.choices import BackboneSettings, SourceSettings
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.sources.strings import shown


def open_records(settings: SourceSettings, *, require_labels: bool = True) -> Records:
    """The data.

    Args:
      settings: where it is.
      require_labels: see `sources.open_source`.

    Returns:
      The records.

    Raises:
      ValueError, OSError: as `sources.open_source`; or no data is named.
    """
    if not settings.data:
        raise ValueError(
            "DATA is missing: a folder of photos, a table, embeddings, or the name of a "
            f"benchmark ({', '.join(sources.benchmarks())})"
        )
    options = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return sources.open_source(**options, require_labels=require_labels)


def load_backbone(records: Records, settings: BackboneSettings) -> Backbone:
    """The backbone named, or the default for the records' kind.

    Raises:
      ValueError, OSError, ModuleNotFoundError: as `backbones.load`.
    """
    name = settings.name or backbones.default_backbone(records.kind)
    if name == "embeddings" and records.kind == "embedding":
        return backbones.embeddings(_width(records))
    return backbones.load(
        name,
        settings.weights,
        compute_dtype=settings.compute_dtype,
        image_size=settings.image_size,
    )


def absolute(settings: SourceSettings) -> SourceSettings:
    """The same data, also for who reads the settings from another folder."""
    if settings.data is None:
        return settings
    name, colon, root = settings.data.partition(":")
    if name not in sources.benchmarks():
        return dataclasses.replace(settings, data=os.path.abspath(settings.data))
    place = os.path.abspath(root) if root else ""
    return dataclasses.replace(settings, data=f"{name}{colon}{place}")


def readable(
    records: Records, embedded: Embedded
) -> tuple[Records, tuple[BadItem, ...]]:
    """The records that have a feature, and all items that were left out."""
    bad = tuple(
        BadItem(str(records.ids[row]), error.reason) for row, error in embedded.bad
    )
    skipped = (*records.skipped, *bad)
    if bad:
        records = records.without([row for row, _ in embedded.bad])
    return with_known_classes(records), skipped


def with_known_classes(records: Records) -> Records:
    """Without the known classes that have lost all labeled items: they are novel."""
    counts = np.bincount(
        records.labels[records.labeled_mask], minlength=records.num_known
    )
    lost = np.flatnonzero(counts == 0)
    if not len(lost):
        return records
    kept = np.flatnonzero(counts)
    lost_names = ", ".join(shown(records.class_names[one]) for one in lost)
    if len(kept) < 2:
        raise ValueError(
            f"{records.name} should have at least two known classes; no labeled item "
            f"could be read of {lost_names}"
        )
    warnings.warn(
        f"counted as novel, as no labeled item could be read: {lost_names}",
        stacklevel=3,
    )
    novel = np.arange(records.num_known, len(records.class_names))
    order = np.concatenate([kept, lost, novel])
    number = np.append(np.argsort(order), -1).astype(np.int32)  # -1 stays -1
    return dataclasses.replace(
        records,
        labels=number[records.labels],
        truth=None if records.truth is None else number[records.truth],
        class_names=tuple(records.class_names[one] for one in order),
        num_known=len(kept),
    )


def _width(records: Records) -> int:
    array: np.ndarray | None = getattr(records.items, "array", None)
    return len(records.items[0]) if array is None else array.shape[1]
