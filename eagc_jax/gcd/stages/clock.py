"""How long each stage takes, and how much of a budget is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Measures stages, by wall clock.

    Args:
      tell: called with the name of each stage as it begins, and by `note`.
      budget: seconds for all of them, or None.

    Examples:
      >>> clock = Clock(print)
      >>> with clock("reading"):
      ...     clock.note("reading, part 2")
      reading
      reading, part 2
      >>> list(clock.seconds), clock.left()
      (['reading'], None)
    """

    def __init__(
        self, tell: Callable[[str], None] | None = None, budget: float | None = None
    ):
        self.seconds: dict[str, float] = {}  # of the stages that are over
        self.budget = budget
        self.note: Callable[[str], None] = tell or (lambda name: None)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measures one."""
        self.note(stage)
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def passed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    def left(self) -> float | None:
        """Seconds of the budget, none of which may be left; None without a budget."""
        return None if self.budget is None else self.budget - self.passed()
