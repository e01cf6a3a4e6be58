"""Programs compiled several at a time, and the memory that they will need."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A compiled program, or why there is none."""

    compiled: Any
    trace_seconds: float  # to trace and lower it
    compile_seconds: float  # among others that compiled at the same time
    error: Exception | None = None

    def call(self, *arguments: Any) -> Any:
        """What it returns, maybe not ready yet; raises what went wrong in compiling."""
        return self._existing()(*arguments)

    def peak_bytes(self) -> int:
        """The most device memory a call needs: arguments, results and temporaries."""
        sizes = self._existing().memory_analysis()
        return (
            sizes.temp_size_in_bytes
            + sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
        )

    def _existing(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.compiled


def compile_all(
    lower: Mapping[str, Callable[[], Any]], threads: int
) -> dict[str, Program]:
    """Compiles programs on some threads while the next ones are traced.

    Args:
      lower: by name, returns ``jax.jit(function).lower(arguments)``.
      threads: programs that are compiled at a time.

    Returns:
      The programs by name; one that couldn't be compiled holds its exception.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = {}
        for name, function in lower.items():
            start = time.perf_counter()
            try:
                lowered = function()
            except Exception as error:  # it must not stop the others
                futures[name] = pool.submit(Program, None, 0.0, 0.0, error)
                continue
            traced = time.perf_counter() - start
            futures[name] = pool.submit(_compile, lowered, traced)
        return {name: future.result() for name, future in futures.items()}


def _compile(lowered: Any, traced: float) -> Program:
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:
        return Program(None, traced, 0.0, error)
    return Program(compiled, traced, time.perf_counter() - start)
