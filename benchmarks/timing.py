"""Timing that all benchmarks share: paired, interleaved, medians; tables and JSON."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import eagc_jax


def interleaved_seconds(
    programs: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    rarely: Collection[str] = (),
    repeat: bool = False,
) -> dict[str, np.ndarray]:
    """Seconds per call of each program, ``(rounds,)``.

    Every round calls each program once, so that what disturbs the machine disturbs all
    of them; those named in ``rarely`` are called in every fifth round only, and have NaN
    in the others. A first call of each, not counted, warms caches; with ``repeat`` every
    timed call has such a call of the same program right before it, as in training:
    otherwise it may pay for memory that the program before it gave back.
    """
    seconds = {name: np.full(rounds, np.nan) for name in programs}
    for program in programs.values():
        jax.block_until_ready(program())
    for index in range(rounds):
        for name, program in programs.items():
            if name in rarely and index % 5:
                continue
            if repeat:
                jax.block_until_ready(program())
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name][index] = time.perf_counter() - start
    return seconds


def machine() -> str:
    """One line: what the figures were measured on, and with which versions."""
    device = jax.devices()[0]
    where = device.device_kind if device.platform != "cpu" else platform.machine()
    return (
        f"{device.platform} ({where}), {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, jax {jax.__version__}, optax "
        f"{optax.__version__}, eagc_jax {eagc_jax.__version__}"
    )


def print_table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> None:
    """Prints rows as a Markdown table, columns and formats as given."""
    cells = [
        [format(row[name], spec) for name, spec in formats.items()] for row in rows
    ]
    widths = [
        max(len(name), *(len(line[index]) for line in cells))
        for index, name in enumerate(formats)
    ]
    lines = [list(formats), ["-" * width for width in widths], *cells]
    for line in lines:
        padded = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("| " + " | ".join(padded) + " |")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json FILE``."""
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the rows to this file"
    )


def write_json(
    path: Path | None,
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    quiet: bool = False,
) -> None:
    """Writes rows, or one object, whole or not at all; says so unless ``quiet``."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(rows, indent=2) + "\n")
    temporary.replace(path)
    if not quiet:
        print(f"wrote {path}")
