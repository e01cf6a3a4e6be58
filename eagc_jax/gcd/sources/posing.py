"""Posing a fully labeled set as a discovery problem: some classes and labels hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from eagc_jax.gcd.sources.records import Items, Kind, Records

# "seeded": NumPy's `default_rng(seed)`. "papers": the legacy generator that the GCD
# papers' code seeds with 0, so that the very same images are labeled as in theirs.
Draw = Literal["seeded", "papers"]


def fully_labeled(
    name: str,
    kind: Kind,
    items: Items,
    ids: Sequence[str],
    classes: np.ndarray,
    class_names: Sequence[str],
    *,
    parts: np.ndarray | None = None,
) -> Records:
    """Records of which every label is known, to be posed.

    Args:
      name: of the data set.
      kind: of its items.
      items: N of them.
      ids: (N,) unique strings.
      classes: (N,) integers, index into `class_names`.
      class_names: of all classes.
      parts: (N,) strings such as "train", or None.

    Returns:
      Records whose labels are their true classes.
    """
    classes = np.asarray(classes, np.int32)
    names = tuple(class_names)
    return Records(
        name, kind, items, ids, classes, names, len(names), truth=classes, parts=parts
    )


def pose(
    records: Records,
    known_classes: Sequence[int],
    *,
    novel_classes: Sequence[int] | None = None,
    labeled_share: float = 0.5,
    seed: int = 0,
    draw: Draw = "seeded",
) -> Records:
    """Declares some classes known and labels a share of their items.

    The labeled items are one draw without replacement from all items of known classes,
    not one per class. The draw depends on `seed` alone and has nothing to do with the
    seed of a run, so that all runs solve the same problem.

    Args:
      records: with the true class of every item.
      known_classes: class numbers; the others are novel. Known classes come first
        afterwards, in the order given, then the novel ones.
      novel_classes: the others in the order that they shall have; ascending by default.
      labeled_share: of the known classes' items, in (0, 1).
      seed: of the draw.
      draw: "seeded" or, for the published splits, "papers".

    Returns:
      The same items with labels for the chosen ones, and the truth for scoring.

    Raises:
      ValueError: a class is unknown to the data set or named twice, none is left to
        discover, the share is not in (0, 1), a true class is not known, or `draw` is
        none of the two.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> digits = sources.load("digits")
      >>> posed = pose(digits, range(3), labeled_share=0.1)
      >>> int(posed.labeled_mask.sum()), posed.num_known, posed.num_classes
      (53, 3, 10)

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022, section 4.
    """
    if draw not in get_args(Draw):
        raise ValueError(f"draw must be one of {get_args(Draw)}, got {draw!r}")
    known = [int(c) for c in known_classes]
    truth = _true_classes(records)
    every = range(len(records.class_names))
    if len(set(known)) != len(known) or not set(known) < set(every) or not known:
        raise ValueError(
            f"known_classes must be some, but not all, of 0..{len(every) - 1}, each "
            f"once; got {known}"
        )
    if not 0 < labeled_share < 1:
        raise ValueError(f"labeled_share must be in (0, 1), got {labeled_share}")
    rest = [c for c in every if c not in set(known)]
    novel = rest if novel_classes is None else [int(c) for c in novel_classes]
    if sorted(novel) != rest:
        raise ValueError(
            f"novel_classes must be those that are not known, each once: {rest}; got "
            f"{novel}"
        )
    order = known + novel
    truth = np.argsort(order)[truth].astype(np.int32)
    candidates = np.flatnonzero(truth < len(known))
    number = int(labeled_share * len(candidates))
    chosen = candidates[_positions(len(candidates), number, seed, draw)]
    return _posed(records, truth, order, len(known), chosen)


def pose_half(records: Records, *, seed: int = 0) -> Records:
    """Every second class known, and half of each known class's items labeled.

    Which classes and which items is drawn, by `seed` alone. For data without a
    published split: one's own, BANKING77, CLINC150, Grocery Store.

    Args:
      records: with the true class of every item.
      seed: of both draws.

    Returns:
      The same items with (K + 1) // 2 of K classes known, in the order drawn.

    Raises:
      ValueError: a true class is not known, or there are fewer than two classes.

    Examples:
      >>> from eagc_jax.gcd import sources
      >>> posed = pose_half(sources.load("digits"))
      >>> posed.num_known, int(posed.labeled_mask.sum()), len(posed)
      (5, 448, 1797)
    """
    truth, number = _true_classes(records), len(records.class_names)
    if number < 2:
        raise ValueError(
            f"{records.name} must have at least two classes to hide some of them, "
            f"found {', '.join(records.class_names) or 'none'}"
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(number).tolist()
    truth = np.argsort(order)[truth].astype(np.int32)
    num_known = (number + 1) // 2
    members = [np.flatnonzero(truth == c) for c in range(num_known)]
    halves = [generator.permutation(rows)[: len(rows) // 2] for rows in members]
    return _posed(records, truth, order, num_known, np.concatenate(halves))


def half_of_each_group(class_names: Sequence[str], *, seed: int = 0) -> tuple[int, ...]:
    """A seeded half of the classes of each group, the smaller half if it is uneven.

    A class's group is its name up to the first slash. Known and novel classes then
    share their groups, so that a novel character is told from known ones by what is
    drawn and not by its alphabet; and neither the order of an alphabet (its letters'
    sounds, say) nor anyone's eye decides which are known.

    Args:
      class_names: names like "Greek/character01".
      seed: of the draw.

    Returns:
      Numbers of the classes drawn, ascending.

    Examples:
      >>> half_of_each_group(["a/1", "a/2", "b/1", "b/2", "b/3", "b/4"])
      (0, 2, 4)
    """
    groups = np.array([name.split("/")[0] for name in class_names])
    generator = np.random.default_rng(seed)
    halves = []
    for group in sorted(set(groups.tolist())):
        members = np.flatnonzero(groups == group)
        halves += generator.permutation(members)[: len(members) // 2].tolist()
    return tuple(sorted(halves))


def _true_classes(records: Records) -> np.ndarray:
    truth = records.labels if records.truth is None else records.truth
    hidden = np.flatnonzero(truth < 0)
    if len(hidden):
        raise ValueError(
            f"{records.name} must have the true class of every item to be posed as a "
            f"benchmark; {len(hidden)} have none, the first is "
            f"{records.ids[int(hidden[0])]!r}"
        )
    return truth


def _positions(number: int, chosen: int, seed: int, draw: Draw) -> np.ndarray:
    if draw == "papers":
        return np.random.RandomState(seed).choice(number, chosen, replace=False)
    # `choice` draws the same positions from a number as from an array of that length.
    return np.random.default_rng(seed).choice(number, chosen, replace=False)


def _posed(
    records: Records,
    truth: np.ndarray,
    order: Sequence[int],
    num_known: int,
    labeled: np.ndarray,
) -> Records:
    labels = np.full(len(truth), -1, np.int32)
    labels[labeled] = truth[labeled]
    names = tuple(records.class_names[c] for c in order)
    return dataclasses.replace(
        records, labels=labels, truth=truth, class_names=names, num_known=num_known
    )
