"""What coordination costs on one GPU, in at most eight minutes.

    python -m benchmarks.gpu [--minutes 8] [--out FILE.json] [--tiny]
    python -m benchmarks.gpu --table FILE.json

The most important parts come first, and the file is whole after every figure; what there
was no time for is named in it. Parts:

- ``bandwidth``: a large copy, donated and not; the quicker one is what "share" refers to.
- ``coordinators``: updates alone of the tree of a ViT-B/16 (150 leaves, 86 million
  parameters), float32 and bfloat16, K = 2, 4, 8. Bytes of the bound (the K gradients
  read twice, the update written, a state read and written) over time, as a share of the
  bandwidth: goal 0.7. A share above 1 is reported as an error, not as a figure.
- ``precision``: what TF32, XLA's default on GPU, does to cosines between gradients.
- ``training``: SimGCD's step for ViT-S/16 and ViT-B/16, 128 images at 224 pixels, plain
  and with each coordinator (goal 1.05 times the plain one), and the model's FLOPs over
  the card's peak, for cards that ``flops.py`` knows.
- ``memory``: the most a step of the optimizer needs, as the compiler plans it, with
  parameters and state donated and not.

Compile seconds are of programs that were compiled several at a time, so each of them is
longer than alone. ``--tiny`` tries it all out on any machine in a minute or two.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks.gpu import bandwidth, coordinators, precision, training
from benchmarks.gpu import sizes as sizes_lib
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.context import Context, Part, describe
from benchmarks.gpu.report import (
    Report,
    print_head,
    print_missing,
    print_part,
    print_report,
    read,
)
from benchmarks.gpu.sizes import Sizes

DTYPES = ("float32", "bfloat16")
_RESERVE = 10.0  # seconds to start, before the clock does, and to leave


def parts(sizes: Sizes) -> list[Part]:
    """The most important ones first."""
    wide, narrow = DTYPES
    return [
        bandwidth.part(),
        *[coordinators.update_part(k, wide) for k in sizes.num_objectives],
        precision.part(sizes),
        *[training.part(model, narrow) for model in sizes.models],
        *[coordinators.update_part(k, narrow) for k in sizes.num_objectives],
        *[training.part(model, wide) for model in sizes.models],
        *[coordinators.memory_part(k, d) for d in DTYPES for k in sizes.num_objectives],
    ]


def measure(report: Report, context: Context, clock: Clock, chosen: list[Part]) -> None:
    """Runs parts one after the other, until the time is up."""
    for part in chosen:
        if clock.left() <= 0:
            return
        shown = report.begin(part.name)
        try:
            for row in part.rows(context):
                report.add(row)
                if clock.left() <= 0:
                    break
        except Exception as error:  # the next part may work
            report.fail(describe(error))
        print_part(shown)


def stop(report: Report, leave: Callable[[int], None]) -> None:
    """Ends the program from another thread: a compilation can't be interrupted."""
    report.hold()
    if not report.content["finished"]:
        report.finish()
        if report.current is not None and report.current["missing"]:
            print_part(report.current)
        print_missing(report.content)
        leave(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="at most; default 8")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="small sizes, any device")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print a file's tables, measure none"
    )
    options = parser.parse_args(arguments)
    if options.table is not None:
        try:
            print_report(read(options.table))
        except (OSError, ValueError) as error:
            parser.error(f"--table: {error}")
        return 0
    if not options.minutes > 0:
        parser.error(f"--minutes must be positive, got {options.minutes}")
    if jax.devices()[0].platform != "gpu" and not options.tiny:
        parser.error("JAX sees no GPU here; --tiny tries the program out without one")
    cores = os.cpu_count() or 1
    return run(options, sizes_lib.tiny() if options.tiny else sizes_lib.full(cores))


def run(options: argparse.Namespace, sizes: Sizes) -> int:
    """Measures, writes and prints."""
    clock = Clock(max(60 * options.minutes - _RESERVE, 0.0))
    settings = {
        "minutes": options.minutes,
        "tiny": options.tiny,
        "threads": sizes.threads,
    }
    chosen = parts(sizes)
    report = Report(options.out, settings, clock, chosen)
    context = Context(sizes, jax.devices()[0].device_kind)
    watch = threading.Timer(max(clock.left(), 0.0) + 1.0, stop, (report, os._exit))
    watch.daemon = True
    watch.start()
    print_head(report.content)
    measure(report, context, clock, chosen)
    watch.cancel()
    report.finish()
    print_missing(report.content)
    if options.out is not None:
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    # Compile seconds are of compiling, whatever a run before this one has kept.
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
