"""What an answer is made of: items that could be read, their features, decisions."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from eagc_jax.gcd import backbones, decisions
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.backbones.embed import OnProgress
from eagc_jax.gcd.decisions import Constraints, Decisions
from eagc_jax.gcd.runs.discovery import JUNK, DiscoverSettings
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.stages import opening
from eagc_jax.gcd.stages.clock import Clock


@dataclasses.dataclass(frozen=True)
class Material:
    """N items, as a person has decided on them; without junk and what can't be read."""

    records: Records
    network: Backbone
    features: np.ndarray  # (N, width) float32
    skipped: tuple[BadItem, ...]
    embedded: int  # contents that no cache had
    decisions: Decisions | None
    constraints: Constraints | None  # what they demand of clusters


def gather(
    records: Records | None,
    settings: DiscoverSettings,
    backbone: Backbone | None,
    decided: Decisions | None,
    cache: str | os.PathLike[str] | None,
    on_progress: OnProgress | None,
    clock: Clock,
) -> Material:
    """Opens the data, embeds it and applies what was decided.

    Args:
      records: the data; None opens what the settings name.
      settings: of source, backbone and decisions.
      backbone: instead of the one that the settings name.
      decided: instead of the file that the settings name.
      cache: folder of features that were computed before, or None.
      on_progress: of embedding.
      clock: of the stages.

    Returns:
      The material.

    Raises:
      ValueError, OSError: as `opening.open_records`, `backbones.embed` and
        `decisions.apply`.
    """
    with clock("reading"):
        if records is None:
            records = opening.open_records(settings.source)
        if decided is None and settings.decisions is not None:
            decided = decisions.read_decisions(settings.decisions)
    with clock("backbone"):
        network = backbone or opening.load_backbone(records, settings.backbone)
    with clock("embedding"):
        embedded = backbones.embed(
            records,
            network,
            cache=cache,
            batch_size=settings.backbone.batch_size,
            on_bad_item=settings.source.on_bad_item,
            on_progress=on_progress,
        )
    records, skipped = opening.readable(records, embedded)
    features, constraints = embedded.features, None
    if decided is not None and len(decided):
        with clock("decisions"):
            records, constraints = decisions.apply(records, decided, features)
        features = features if constraints.kept.all() else features[constraints.kept]
        skipped = (*skipped, *(BadItem(name, JUNK) for name in constraints.junk))
    return Material(
        records, network, features, skipped, embedded.embedded, decided, constraints
    )
