"""A problem of which a part of the answer is known: some known classes are hidden."""

from __future__ import annotations

import dataclasses

import numpy as np

from eagc_jax.gcd.sources import Records

_PARTS = (3, 4)  # a rehearsal hides a third of the known classes, or a quarter,
_FEWEST = 3  # of at least so many
_HELD_OUT = 0.1  # of each visible class's labels


@dataclasses.dataclass(frozen=True)
class Posed:
    """What the pipeline is given, and what its answer is compared with."""

    records: Records  # visible classes 0, 1, ... and their labels; no truth
    hidden: np.ndarray  # (N,) int, the known class of items that lost it, else -1
    held_out: (
        np.ndarray
    )  # (N,) int, visible class of items whose label is held out, or -1


def parts(num_known: int, rehearsals: int, seed: int) -> list[np.ndarray]:
    """Which classes each rehearsal hides: a quarter, or of three rehearsals a third.

    Args:
      num_known: at least three.
      rehearsals: how many; fewer are made where there are fewer ways.
      seed: of the draw.

    Returns:
      Class numbers in ascending order, a row a rehearsal.

    Raises:
      ValueError: there are too few classes, or no rehearsals.

    Examples:
      >>> [part.tolist() for part in parts(3, 4, seed=0)]
      [[2], [0], [1]]
    """
    if num_known < _FEWEST:
        raise ValueError(
            f"a rehearsal hides some known classes and needs two more: at least "
            f"{_FEWEST} known classes, found {num_known}; label items of another "
            "class, or do without a rehearsal"
        )
    if rehearsals < 1:
        raise ValueError(f"rehearsals must be at least 1, got {rehearsals}")
    number = min(_PARTS[0] if rehearsals == _PARTS[0] else _PARTS[1], num_known)
    if num_known <= number:
        rehearsals = min(rehearsals, num_known)
    draw = np.random.default_rng([seed, 0])
    found: list[np.ndarray] = []
    while len(found) < rehearsals:
        order = draw.permutation(num_known)
        found += [np.sort(order[part::number]) for part in range(number)]
    return found[:rehearsals]


def hide(records: Records, classes: np.ndarray, seed: int) -> Posed:
    """Takes the labels of some classes away, and a tenth of those of each other class.

    Args:
      records: their labels count, their truth doesn't.
      classes: numbers of the known classes to be hidden.
      seed: of the draw of labels that are held out.

    Returns:
      The problem.
    """
    visible = np.setdiff1d(np.arange(records.num_known), classes)
    number = np.full(
        records.num_known + 1, -1, np.int32
    )  # the last is for unlabeled ones
    number[visible] = np.arange(len(visible))
    labels = number[records.labels]
    lost = (records.labels >= 0) & (labels < 0)
    held = _held_out(labels, np.random.default_rng([seed, 1]))
    names = tuple(records.class_names[one] for one in visible)
    posed = dataclasses.replace(
        records,
        labels=np.where(held, -1, labels).astype(np.int32),
        class_names=names,
        num_known=len(visible),
        truth=None,
    )
    return Posed(
        posed,
        np.where(lost, records.labels, -1),
        np.where(held, labels, -1),
    )


def _held_out(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(N,) bool: a tenth of each class's, rounded; at least one of three."""
    held = np.zeros(len(labels), bool)
    for one in range(labels.max() + 1):
        rows = np.flatnonzero(labels == one)
        some = max(round(_HELD_OUT * len(rows)), int(len(rows) >= 3))
        held[draw.permutation(rows)[:some]] = True
    return held
