"""Time left, and seconds a call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

_MOST_CALLS = 1000


class Clock:
    """Counts down from when it was made."""

    def __init__(self, seconds: float):
        self._start = time.perf_counter()
        self._seconds = seconds

    def passed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def left(self) -> float:
        """Seconds until the time is up; negative afterwards."""
        return self._seconds - self.passed()


class Timing(NamedTuple):
    """Of one call."""

    seconds: float  # with all others of its round queued behind it
    host_seconds: (
        float  # until it was queued: where close to `seconds`, the host limits
    )


def time_calls(call: Callable[[], Any], at_least: float, rounds: int) -> Timing:
    """Seconds of a call among many that are queued without waiting for the one before.

    Every call is a program of its own, so nothing can be moved out of a loop over calls;
    that the device never waits for Python takes many calls.

    Args:
      call: queues one call, and returns what it will have made.
      at_least: seconds that a round should take.
      rounds: the quickest counts.

    Returns:
      Seconds, and those that queueing took.
    """
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    once = max(time.perf_counter() - start, 1e-7)
    number = max(2, min(math.ceil(at_least / once), _MOST_CALLS))
    return min(_round(call, number) for _ in range(rounds))


def _round(call: Callable[[], Any], number: int) -> Timing:
    made = None
    start = time.perf_counter()
    for _ in range(number):
        made = call()
    queued = time.perf_counter()
    jax.block_until_ready(made)
    end = time.perf_counter()
    return Timing((end - start) / number, (queued - start) / number)
