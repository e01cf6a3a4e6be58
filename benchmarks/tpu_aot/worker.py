"""The process that compiles: rows by name in, a line of JSON a row out.

    python -m benchmarks.tpu_aot.worker [--small] [--blocks=N] NAME...

A process of its own, since a compiler that fails may take its process along, and since
what one program left in memory should not be the next one's. ``--small`` compiles small
programs for the CPU: it tests this benchmark where there is no TPU compiler.
"""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

# Before JAX is imported: no TPU is looked for, and none is reserved.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def rows(
    names: Sequence[str], devices: Any, *, small: bool, blocks: int | None = None
) -> Any:
    """Yields what was measured of each row, or why it could not be."""
    from benchmarks.tpu_aot import cases, compiling

    known = {case.name: case for case in cases.all_cases()}
    mesh = cases.mesh_of(devices)
    pace, paced = None, None
    for name in names:
        try:
            case = known[name]
            beside = cases.sum_beside(case, mesh, small=small, blocks=blocks)
            compared = None if beside is None else case.baseline
            if pace is None or paced != compared:
                small_one = cases.small_program(mesh, small=small)
                pace, paced = compiling.Pace(beside or small_one), compared
            program = cases.build(case, mesh, small=small, blocks=blocks)
            measured = compiling.measure(program)
            taken = "pace_seconds" if beside is None else "sum_seconds"
            yield {"row": name, **measured, taken: pace.of_passed()}
        except Exception as error:  # the row says so, and the others go on
            traceback.print_exc()
            yield {"row": name, "error": f"{type(error).__name__}: {error}"[:300]}


def main(arguments: Sequence[str]) -> int:
    names = [name for name in arguments if not name.startswith("--")]
    small = "--small" in arguments
    counts = [a.partition("=")[2] for a in arguments if a.startswith("--blocks=")]
    blocks = int(counts[0]) if counts else None
    if small:
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        jax.config.update("jax_num_cpu_devices", 4)
        devices = jax.devices()
    else:
        os.environ.update(TPU_ENVIRONMENT)
        from benchmarks.tpu_aot import compiling

        devices = compiling.tpu_devices()
    for row in rows(names, devices, small=small, blocks=blocks):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
