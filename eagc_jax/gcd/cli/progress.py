"""How far a command is: a bar on a terminal, plain lines elsewhere; on stderr."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_SECONDS = 10.0  # between two plain lines
_STEPS = re.compile(r"(\d+) of (\d+)")  # of a stage, that are done


class Shown:
    """Shows the stage, and of it how far, how fast and how long yet.

    Use as a context manager; `stage`, `embedding` and `writing` are what `discover`,
    `embed` and `export` call.
    """

    def __init__(self, console: Console | None = None):
        console = Console(stderr=True) if console is None else console
        self._bar = _bar(console) if console.is_terminal else None
        self._last = self._began = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task("starting", total=None, rate="")

    def __enter__(self) -> Shown:
        """Starts the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str) -> None:
        """What is done now; where it says `3 of 20`, three steps of it are over."""
        steps = _STEPS.search(name)
        if steps is not None:
            self._steps(name, int(steps[1]), int(steps[2]))
            return
        self._began = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, total=None, description=name, rate="")

    def _steps(self, name: str, done: int, total: int) -> None:
        each = (time.monotonic() - self._began) / max(done, 1)
        speed = f"{each:.1f} s each, {_duration(each * (total - done))} left"
        if self._bar is None:
            self._line(f"{name}: {speed}" if done else name)
            return
        self._bar.update(
            self._task,
            description=name,
            completed=done,
            total=total,
            rate=speed if done else "",
        )

    def embedding(self, done: int, total: int, rate: float, seconds: float) -> None:
        """So many items of all, so many a second, so many seconds left."""
        self._items("embedded", done, total, rate, seconds)

    def writing(self, done: int, total: int) -> None:
        """So many items of all, since the stage began."""
        each = (time.monotonic() - self._began) / done
        rate = 1 / max(each, 1e-9)
        self._items("wrote", done, total, rate, each * (total - done))

    def _items(
        self, what: str, done: int, total: int, rate: float, seconds: float
    ) -> None:
        speed = f"{rate:,.0f} a second, {_duration(seconds)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=speed)
            return
        self._line(f"{what} {done:,} of {total:,}: {speed}")

    def _line(self, text: str) -> None:
        """Prints it, unless another one was printed just now."""
        now = time.monotonic()
        if now - self._last >= _SECONDS:
            self._last = now
            print(text, file=sys.stderr, flush=True)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    return Progress(*columns, console=console, transient=True)


def _duration(seconds: float) -> str:
    """To be read at a glance."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h"
