"""Interrupts: noticed at once, and acted on when the state of training is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM): its exit code should be 143."""


class Interrupts:
    """What was asked for and not yet obeyed.

    Within `heard`, the first SIGINT or SIGTERM is noted, for `obey` to raise it where
    that does no harm; the second is raised at once. Where a program has handlers of its
    own, or outside of the main thread, nothing changes.
    """

    def __init__(self):
        self._pending: type[KeyboardInterrupt] | None = None
        self._patient = False  # a first one may wait

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Until the end of it."""
        replaced = {}
        if threading.current_thread() is threading.main_thread():
            usual = {
                signal.SIGINT: signal.default_int_handler,
                signal.SIGTERM: signal.SIG_DFL,
            }
            for number, handler in usual.items():
                if signal.getsignal(number) is handler:
                    replaced[number] = signal.signal(number, self._on_signal)
        self._pending, self._patient = None, True
        try:
            yield
        finally:
            self._patient = False
            for number, handler in replaced.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Nothing waits meanwhile: somebody else's code runs."""
        self._patient = False
        try:
            yield
        finally:
            self._patient = True

    @property
    def pending(self) -> bool:
        """Whether something was asked for."""
        return self._pending is not None

    def obey(self) -> None:
        """Raises KeyboardInterrupt or `Terminated`, if one was asked for."""
        pending, self._pending = self._pending, None
        if pending is not None:
            raise pending()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
        if self._patient and self._pending is None:
            self._pending = kind
            return
        raise kind()
