"""What could answer: the first answer, a training, a training with a coordinator."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources import Records
from eagc_jax.gcd.stages import answering
from eagc_jax.gcd.training.aggregation import Aggregation

FIRST = "first answer"
TRAINED = "trained"

# (records, features, num_classes, seed) -> (N,) clusters; a known class is the cluster of
# its own number.
Answer = Callable[[Records, np.ndarray, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something that puts items into clusters."""

    name: str
    settings: RunSettings | None  # of its training; None where nothing is trained
    answer: Answer = dataclasses.field(repr=False, compare=False)
    # Of one answer, where that is known: what it is measured by until it has run.
    seconds: float | None = None


def first(settings: ClusteringSettings | None = None) -> Candidate:
    """Semi-supervised k-means on the features.

    Args:
      settings: of k-means.

    Examples:
      >>> first().name
      'first answer'
    """
    chosen = settings or ClusteringSettings()

    def answer(
        records: Records, features: np.ndarray, num_classes: int, seed: int
    ) -> np.ndarray:
        found = answering.first_answer(
            features, records.labels, num_classes, chosen, seed
        )
        return np.asarray(found.assignments)

    return Candidate(FIRST, None, answer)


def trained(
    settings: RunSettings,
    *,
    name: str = TRAINED,
    network: Backbone | None = None,
    cache: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
) -> Candidate:
    """A training run, with the seed that it is asked for.

    Args:
      settings: of the run; their seed plays no part.
      name: of the candidate.
      network: the backbone, where it is needed.
      cache: folder in which neighbours and features of views are kept, or None.
      seconds: that one takes, where that is known.
    """

    @functools.lru_cache(maxsize=1)
    def nearest(features: _Same) -> np.ndarray:
        number = settings.training.adapter.neighbours
        return backbones.neighbours(features.array, number, cache=cache)

    def answer(
        records: Records, features: np.ndarray, num_classes: int, seed: int
    ) -> np.ndarray:
        training = dataclasses.replace(settings.training, seed=seed)
        seeded = dataclasses.replace(settings, training=training)
        some = training.trains != "blocks" and training.adapter.neighbours
        run = answering.start(
            seeded,
            records,
            network,
            features,
            num_classes=num_classes,
            neighbours=nearest(_Same(features)) if some else None,
            cache=cache,
            name=name,
        )
        for _ in run:
            pass
        return answering.after(run)[1]

    return Candidate(name, settings, answer, seconds)


def coordinated(
    settings: RunSettings,
    names: Sequence[str],
    *,
    network: Backbone | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> list[Candidate]:
    """The same training with the objectives' gradients brought together in other ways.

    Args:
      settings: of the run.
      names: of aggregators, see `training.aggregation.aggregator_names`.
      network: the backbone, where it is needed.
      cache: see `trained`.

    Returns:
      A candidate each, called "trained, NAME".

    Raises:
      ValueError: there is no such aggregator.
    """
    return [
        trained(
            dataclasses.replace(settings, aggregator=Aggregation(name)),
            name=f"{TRAINED}, {name}",
            network=network,
            cache=cache,
        )
        for name in names
    ]


def with_neighbours(
    settings: RunSettings,
    numbers: Sequence[int],
    *,
    items: int | None = None,
    network: Backbone | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> list[Candidate]:
    """The same training with other second views of unlabeled items.

    Args:
      settings: of the run.
      numbers: of nearest items, of which one, or the item itself, is the second view; 0
        for the item itself. That of ``settings``, and repeated ones, are left out.
      items: how many there are: each has at most as many neighbours, less itself.
      network: the backbone, where it is needed.
      cache: see `trained`.

    Returns:
      A candidate each, called "trained, N neighbours" or "trained, no neighbours"; none
      where the training has no such views: of the backbone's blocks, or with views that
      were computed beforehand.

    Raises:
      ValueError: a number is negative.

    Examples:
      >>> from eagc_jax.gcd.settings.running import on_features
      >>> [one.name for one in with_neighbours(on_features(neighbours=10), [10, 5, 0])]
      ['trained, 5 neighbours', 'trained, no neighbours']
    """
    training = settings.training
    numbers = numbers if items is None else [min(n, items - 1) for n in numbers]
    others = [n for n in dict.fromkeys(numbers) if n != training.adapter.neighbours]
    if training.trains == "blocks" or training.adapter.augmented_views:
        return []
    found = []
    for number in others:
        adapter = dataclasses.replace(training.adapter, neighbours=number)
        changed = dataclasses.replace(training, adapter=adapter)
        found.append(
            trained(
                dataclasses.replace(settings, training=changed),
                name=f"{TRAINED}, {number or 'no'} neighbour{'s' * (number != 1)}",
                network=network,
                cache=cache,
            )
        )
    return found


class _Same:
    """An array that is equal to itself alone, so that what belongs to it can be kept."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array
