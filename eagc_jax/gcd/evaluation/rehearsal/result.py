"""What rehearsals found, as plain values: for print, for the page, for rehearsal.json."""

from __future__ import annotations

import dataclasses
import math
import os

from eagc_jax._files import JsonObject
from eagc_jax.gcd.runs.reading import read_json
from eagc_jax.gcd.settings.plain import from_plain, to_plain

_MOST_BYTES = 8 * 2**20
_MOST_TRIALS = 10_000
_MOST_LETTERS = 10_000  # of a name or a sentence


@dataclasses.dataclass(frozen=True)
class Interval:
    """What to expect, and between which values it lies nine times in ten.

    Raises:
      ValueError: a value is not finite, or they are not in order.
    """

    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        values = (self.low, self.expected, self.high)
        if not all(math.isfinite(x) for x in values) or list(values) != sorted(values):
            raise ValueError(
                f"low, expected and high must be finite and in this order, got {values}"
            )

    def __contains__(self, value: float) -> bool:
        """Whether a value lies between."""
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """From low to high."""
        return self.high - self.low


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate's answer in one rehearsal, compared with what was hidden.

    Raises:
      ValueError: numbers that can't be; the message names the field.
    """

    rehearsal: int  # its number, from 0
    num_classes: int  # that the candidate was told
    classes: tuple[int, ...]  # that were hidden
    items: tuple[int, ...]  # of each, that lost their label
    right: tuple[int, ...]  # of these, matched with their class
    old_items: tuple[int, ...]  # of each visible class, whose label was held out
    old_right: tuple[int, ...]
    seconds: float

    def __post_init__(self) -> None:
        for name, more in (("right", "items"), ("old_right", "old_items")):
            some, every = getattr(self, name), getattr(self, more)
            pairs = zip(some, every, strict=False)
            if len(some) != len(every) or not all(0 <= a <= b for a, b in pairs):
                raise ValueError(
                    f"{name} must have one entry for each of {more}, at least 0 and at "
                    f"most that"
                )
        if len(self.classes) != len(self.items) or not self.classes:
            raise ValueError(
                "classes must have one entry for each of items, at least one"
            )
        if not sum(self.items):
            raise ValueError("items must not all be 0")
        if self.rehearsal < 0 or self.num_classes < 1 or not self.seconds >= 0:
            raise ValueError(
                "rehearsal and seconds must be at least 0 and num_classes at least 1, "
                f"got {self.rehearsal}, {self.seconds} and {self.num_classes}"
            )

    @property
    def new(self) -> float:
        """Accuracy on the hidden classes."""
        return sum(self.right) / sum(self.items)

    @property
    def old(self) -> float | None:
        """Accuracy on held-out items of the visible classes, where there are some."""
        number = sum(self.old_items)
        return sum(self.old_right) / number if number else None


@dataclasses.dataclass(frozen=True)
class Rated:
    """A candidate with all its rehearsals."""

    name: str
    trials: tuple[Trial, ...]
    new: Interval  # accuracy on novel classes, as the papers count it
    old: (
        Interval | None
    )  # on unlabeled items of known classes; None if none was held out
    all: Interval | None  # on unlabeled items
    # Of New, from the first candidate's in the same rehearsals; None for the first.
    difference: Interval | None = None

    @property
    def seconds(self) -> float:
        """Of all its answers."""
        return sum(trial.seconds for trial in self.trials)


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """How far to trust an answer, and which of several to take.

    Raises:
      ValueError: no candidate, or the chosen one is not among them; or too much of it.
    """

    candidates: tuple[Rated, ...]  # in the order given; those that had the time
    chosen: str  # name of one of them
    reason: str  # a sentence
    left_out: tuple[str, ...]  # what the time did not allow, a phrase each
    num_classes: int | None  # as given; None where each rehearsal estimated it
    labeled_share: float  # estimated, of the items of known classes
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        if self.chosen not in [one.name for one in self.candidates]:
            raise ValueError("chosen must be the name of one of the candidates")
        trials = sum(len(one.trials) for one in self.candidates)
        texts = (self.reason, *self.left_out, *(one.name for one in self.candidates))
        if trials > _MOST_TRIALS or max(map(len, texts)) > _MOST_LETTERS:
            raise ValueError(
                f"a rehearsal has at most {_MOST_TRIALS} trials and texts of "
                f"{_MOST_LETTERS} letters"
            )
        if not 0 < self.labeled_share <= 1:
            raise ValueError(
                f"labeled_share must be in (0, 1], got {self.labeled_share}"
            )

    @property
    def best(self) -> Rated:
        """The chosen candidate."""
        return next(one for one in self.candidates if one.name == self.chosen)

    def to_plain(self) -> JsonObject:
        """Numbers, strings, lists and None, for JSON."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, values: JsonObject) -> Rehearsal:
        """From what `to_plain` made.

        Raises:
          ValueError: an entry is missing, unknown or wrong; the message names it.
        """
        return from_plain(cls, values)


def read_rehearsal(path: str | os.PathLike[str]) -> Rehearsal:
    """From rehearsal.json, which anybody may have written.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is too large, or holds something else; the message names it.
    """
    values = read_json(path, most=_MOST_BYTES)
    try:
        return Rehearsal.from_plain(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
