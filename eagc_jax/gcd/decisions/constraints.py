"""What decisions demand of any clustering of the items."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Of M items, those that are left without junk; rows are theirs.

    Examples:
      >>> none = Constraints(("a", "b"), labels=np.array([0, -1]), kept=np.ones(2, bool))
      >>> none.together, none.junk
      ((), ())
    """

    ids: Sequence[str]  # (M,)
    labels: (
        np.ndarray
    )  # (M,) int32, classes of labeled and accepted items, -1 elsewhere
    kept: np.ndarray  # (N,) bool, of the items before: not junk
    together: tuple[
        np.ndarray, ...
    ] = ()  # rows of one class, of at least two items each
    apart: tuple[np.ndarray, ...] = ()  # rows no two of which are of one class
    junk: tuple[str, ...] = ()  # ids of items that take no part
    new_classes: tuple[str, ...] = ()  # known classes that the data did not have
    # Classes than before, known and novel ones: splits add some, merging takes some away.
    more_classes: int = 0
    missing: int = (
        0  # members of clusters in the file that the data don't have any more
    )
