"""One program through the compiler: seconds, collectives, memory, FLOPs."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks.tpu_aot import collectives

TOPOLOGY = "v5e:2x2"


class Program(NamedTuple):
    """What is to be compiled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # trees of jax.ShapeDtypeStruct, with shardings.
    donated: tuple[int, ...] = ()
    results: Any = (
        None  # shardings of what it returns; None leaves one to the compiler.
    )


def tpu_devices() -> Sequence[Any]:
    """Descriptions of four TPU chips: enough to compile for them."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    return topology.devices


def measure(program: Program) -> dict[str, Any]:
    """Compiles a program and returns what the table and the bounds need.

    ``compile_seconds`` is the lesser of the time that passed and the processor time of
    all threads: on an idle machine the former, and on a busy one the latter, which an
    idle one would not exceed.
    """
    compiled_by = jitted(program, program.function)
    wall, processor = time.perf_counter(), time.process_time()
    lowered = compiled_by.trace(*program.arguments).lower()
    trace = _passed(wall, processor)
    program_text = lowered.as_text()
    wall, processor = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    seconds = _passed(wall, processor)
    memory = compiled.memory_analysis()
    return {
        "program": digest(program_text),
        "trace_seconds": min(trace),
        "compile_seconds": min(seconds),
        "compile_wall_seconds": seconds[0],
        "compile_processor_seconds": seconds[1],
        "collectives": collectives.count(compiled.as_text()),
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "flops": compiled.cost_analysis().get("flops", 0.0),
        "bytes_accessed": compiled.cost_analysis().get("bytes accessed", 0.0),
    }


def jitted(program: Program, function: Callable[..., Any]) -> Any:
    """A function jitted as the program is to be."""
    return jax.jit(
        function, donate_argnums=program.donated, out_shardings=program.results
    )


def digest(text: str) -> str:
    """Tells whether a program is still the one that was measured."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Pace:
    """How fast the machine is: seconds that one program takes to compile, again.

    Beside an update it is the plain sum that it is compared with, else a small one. A
    machine that does other work besides compiles more slowly, in processor seconds too
    (its caches and cores are shared), for some minutes and not for others.
    """

    def __init__(self, program: Program):
        self._program = program
        self._last = self._measure()

    def _measure(self) -> float:
        function, arguments = self._program.function, self._program.arguments
        # A function of its own each time: what was compiled before is remembered.
        again = jitted(self._program, lambda *given: function(*given))
        lowered = again.trace(*arguments).lower()
        wall, processor = time.perf_counter(), time.process_time()
        lowered.compile()
        return min(_passed(wall, processor))

    def of_passed(self) -> float:
        """The mean of now and of when it was last asked."""
        before, self._last = self._last, self._measure()
        return (before + self._last) / 2


def _passed(wall: float, processor: float) -> tuple[float, float]:
    return time.perf_counter() - wall, time.process_time() - processor
