"""Compiles the rows in processes of their own, prints the table, judges."""

import argparse
import fnmatch
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from benchmarks.timing import add_json_option, write_json
from benchmarks.tpu_aot import cases, table

ROWS_OF_A_PROCESS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    selected = select(options.only, options.quick)
    measured = _kept(options)
    missing = [case.name for case in selected if case.name not in measured]
    rows = compile_rows(missing, options.small, options.blocks, options.workers)
    for number, row in enumerate(rows, start=1):
        measured[row["row"]] = row
        print(f"{number}/{len(missing)} {_line(row)}", flush=True)
        write_json(_unfinished(options.json), list(measured.values()), quiet=True)
    rows = table.judged(measured, selected)
    table.show(rows)
    table.show_by_method(rows)
    _finish(options.json, table.judged(measured, cases.all_cases()))
    failed = [row["row"] for row in rows if row["missed"]]
    print(f"{len(rows)} rows, {len(failed)} with a bound missed")
    return 1 if failed or len(rows) < len(selected) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tpu_aot",
        description="Every method compiled for TPU, ahead of time.",
    )
    add_json_option(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run"
    )
    parser.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="PATTERN",
        help="with --resume: measure these rows again, keep the others of the file",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="these rows, as 'upgrad/last/*', and the plain sums beside them",
    )
    parser.add_argument("--quick", action="store_true", help="a few telling rows")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="rows at a time; more are done sooner, each slower",
    )
    parser.add_argument(
        "--blocks", type=int, help="of the twelve in updates: fewer compile sooner"
    )
    parser.add_argument(
        "--small", action="store_true", help="tiny programs, for the CPU"
    )
    options = parser.parse_args(arguments)
    if options.resume and options.json is None:
        parser.error("--resume needs --json FILE")
    return options


def select(only: Sequence[str] | None, quick: bool) -> list[cases.Case]:
    """The rows that are asked for, each group behind its plain sum."""
    known = cases.quick_cases() if quick else cases.all_cases()
    if not only:
        return known
    wanted = {case for case in known if any(_matches(case.name, p) for p in only)}
    if not wanted:
        raise SystemExit(f"no row is called {' or '.join(only)}")
    wanted |= {case.baseline for case in wanted}
    return [case for case in cases.all_cases() if case in wanted]


def compile_rows(
    names: Sequence[str], small: bool, blocks: int | None, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """Every row by worker processes; one that ends early has an error in its place."""
    starts = range(0, len(names), ROWS_OF_A_PROCESS)
    parts = [list(names[start : start + ROWS_OF_A_PROCESS]) for start in starts]
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(part):
        try:
            for row in _compile_part(part, small, blocks):
                found.put(row)
                if stopped.is_set():
                    return
        except BaseException as error:
            found.put(error)

    pool = futures.ThreadPoolExecutor(workers)
    try:
        for part in parts:
            pool.submit(work, part)
        for _ in names:
            row = found.get()
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:  # also when interrupted: what hasn't begun is not begun
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _compile_part(
    names: Sequence[str], small: bool, blocks: int | None
) -> Iterator[dict[str, Any]]:
    left = list(names)
    while left:
        done = []
        for row in _run_worker(left, small, blocks):
            done.append(row["row"])
            yield row
        if len(done) < len(left):
            lost = left[len(done)]
            done.append(lost)
            yield {"row": lost, "error": "the process that compiled it ended"}
        left = left[len(done) :]


def _run_worker(
    names: Sequence[str], small: bool, blocks: int | None
) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.tpu_aot.worker"]
    command += ["--small"] if small else []
    command += [] if blocks is None else [f"--blocks={blocks}"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*command, *names], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            if line.startswith("{"):  # the TPU compiler also writes here
                yield json.loads(line)
        if process.wait():
            errors.seek(0)
            print(errors.read()[-3000:], file=sys.stderr)


def _kept(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What need not be measured: of an interrupted run, or with ``--again``, of any."""
    if not options.resume:
        return {}
    path = _unfinished(options.json)
    if not path.exists() and options.again:
        path = options.json
    rows = json.loads(path.read_text()) if path.exists() else []
    again = [
        r["row"] for r in rows if any(_matches(r["row"], p) for p in options.again)
    ]
    return {row["row"]: row for row in rows if row["row"] not in again}


def _unfinished(path: Path | None) -> Path | None:
    """Where the rows of a run are until it ends."""
    return None if path is None else path.with_name(path.name + ".unfinished")


def _finish(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    if path is not None:
        write_json(path, rows)
        _unfinished(path).unlink(missing_ok=True)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['row']}: {row['error']}"
    wall, processor = row["compile_wall_seconds"], row["compile_processor_seconds"]
    return f"{row['row']}: {wall:.1f} s ({processor:.1f} s of processors)"


if __name__ == "__main__":
    sys.exit(main())
