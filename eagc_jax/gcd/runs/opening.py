"""Data and backbone, as settings describe them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from eagc_jax.gcd import backbones, sources
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.runs.discovery import BackboneSettings, SourceSettings
from eagc_jax.gcd.sources import Records


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


def _width(records: Records) -> int:
    array: Any = getattr(records.items, "array", None)
    return len(records.items[0]) if array is None else array.shape[1]
