"""Which answer is taken: the first one, or one that is trained, by rehearsal."""

from __future__ import annotations

import hashlib
import json
import os
from typing import NamedTuple

import numpy as np

from eagc_jax.gcd.backbones.cache.arrays import cached_array
from eagc_jax.gcd.evaluation import rehearsal as rehearsing
from eagc_jax.gcd.evaluation.rehearsal import FIRST, TRAINED, Candidate, Rehearsal
from eagc_jax.gcd.runs.discovery import DiscoverSettings
from eagc_jax.gcd.settings.plain import to_plain
from eagc_jax.gcd.settings.running import RunSettings, recommended
from eagc_jax.gcd.stages.clock import Clock
from eagc_jax.gcd.stages.material import Material

_FEWEST = 3  # known classes, of which one can be hidden
_VERSION = 4  # of rehearsals that are kept
# Of a budget, what is left for other things than rehearsal: training and the page.
_SHARE, _RESERVE = 0.6, 15.0


class Plan(NamedTuple):
    """What is done after the first answer."""

    name: str  # of the answer, by the rehearsal's names
    run: RunSettings | None  # its training; None for the first answer
    rehearsal: Rehearsal | None
    seconds: float | None = None  # that training took in rehearsals, if it was
    note: str = ""  # why there was no rehearsal


def plan(
    settings: DiscoverSettings,
    material: Material,
    num_classes: int | None,
    cache: str | os.PathLike[str] | None,
    clock: Clock,
) -> Plan:
    """Rehearses, where that can be, and chooses.

    Args:
      settings: of the discovery.
      material: the items.
      num_classes: as it was given; None where it was estimated, so that each rehearsal
        estimates it, too.
      cache: folder in which rehearsals are kept, or None.
      clock: of the stages.

    Returns:
      The plan.
    """
    if settings.quick:
        return Plan(FIRST, None, None)
    training = settings.run or recommended(
        material.records.kind,
        material.network.depth,
        seed=settings.seed,
        items=len(material.records),
    )
    if not settings.rehearse:
        return Plan(TRAINED, training, None)
    if material.records.num_known < _FEWEST:
        note = (
            f"not rehearsed: that needs {_FEWEST} known classes, of which one can be "
            f"hidden; there are {material.records.num_known}"
        )
        return Plan(TRAINED, training, None, note=note)
    candidates = _candidates(settings, material, training, cache)
    with clock("rehearsal"):
        found = _rehearsed(settings, material, candidates, num_classes, cache, clock)
    chosen = next(one for one in candidates if one.name == found.chosen)
    took = max((trial.seconds for trial in found.best.trials), default=None)
    return Plan(found.chosen, chosen.settings, found, took)


def _candidates(
    settings: DiscoverSettings,
    material: Material,
    training: RunSettings,
    cache: str | os.PathLike[str] | None,
) -> list[Candidate]:
    network = material.network
    return [
        rehearsing.first(settings.clustering),
        rehearsing.trained(training, network=network, cache=cache),
        *rehearsing.coordinated(
            training, settings.coordinators, network=network, cache=cache
        ),
        *rehearsing.with_neighbours(
            training,
            settings.neighbours,
            items=len(material.records),
            network=network,
            cache=cache,
        ),
    ]


def _rehearsed(
    settings: DiscoverSettings,
    material: Material,
    candidates: list[Candidate],
    num_classes: int | None,
    cache: str | os.PathLike[str] | None,
    clock: Clock,
) -> Rehearsal:
    """From the cache, where the same was rehearsed before; else now."""
    left = clock.left()
    seconds = None if left is None else max(_SHARE * (left - _RESERVE), 0.0)

    def make() -> np.ndarray:
        found = rehearsing.rehearse(
            material.records,
            material.features,
            candidates,
            num_classes=num_classes,
            rehearsals=settings.rehearsals,
            seed=settings.seed,
            seconds=seconds,
            on_progress=lambda done, total, what: clock.note(
                f"rehearsal, {done} of {total} answers: {what}"
            ),
        )
        text = json.dumps(found.to_plain())
        return np.frombuffer(text.encode(), np.uint8)

    # What was cut to fit a time is not what is asked for without, or with another one.
    key = _key(settings, material, candidates, num_classes)
    kept = cached_array(cache if seconds is None else None, key, make)
    return Rehearsal.from_plain(json.loads(bytes(kept)))


def _key(
    settings: DiscoverSettings,
    material: Material,
    candidates: list[Candidate],
    num_classes: int | None,
) -> str:
    """Of everything that a rehearsal depends on."""
    content = hashlib.blake2b(digest_size=16)
    features = material.features
    for start in range(0, len(features), 2**14):
        content.update(np.ascontiguousarray(features[start : start + 2**14]).data)
    content.update(np.ascontiguousarray(material.records.labels, np.int64).data)
    about = {
        "clustering": to_plain(settings.clustering),
        "candidates": [[one.name, to_plain(one.settings)] for one in candidates],
        "num_classes": num_classes,
        "rehearsals": settings.rehearsals,
        "seed": settings.seed,
        "backbone": material.network.fingerprint(),
    }
    return f"rehearsal {_VERSION} of {content.hexdigest()} {json.dumps(about)}"
