"""Where the TPU compiler's time goes in one row, program by program.

    python -m benchmarks.tpu_aot.where eagc_channel/first/K4/float32 [--blocks N]

The compiler makes one program of every different fusion, and one that calls them. It is
told to write down what it makes of each as it goes along; the time between two files is
that of the later one's program. Writing takes time, too: shares count, not seconds.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import print_table
from benchmarks.tpu_aot import worker

_TOLD = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=fingerprints|original|final"
)
# What a file is called: a number that tells programs apart, the program, a stage.
_FILE = re.compile(r"(?:\d+-)?(?P<program>.+?)-(?:\d+-.*|hlo\.txt)$")
_FUSION = re.compile(r'%(\S+) = .*op_name="([^"]*)"')
_PASSES, _CALLER = "passes over the whole", "the program that calls the others"


class Written(NamedTuple):
    """A file that the compiler wrote."""

    name: str
    time: float


def seconds_by_program(files: Iterable[Written], start: float) -> dict[str, float]:
    """Of every program, since the file before."""
    found: dict[str, float] = collections.Counter()
    for file in sorted(files, key=lambda file: file.time):
        if file.name.endswith("TLP-hlo.txt"):
            program = _PASSES
        else:
            match = _FILE.match(file.name)
            program = match["program"] if match else file.name
        found[_CALLER if program == "TLP" else program] += file.time - start
        start = file.time
    return dict(found)


def by_kind(seconds: dict[str, float], text: str) -> list[dict[str, Any]]:
    """Rows of the table, longest first; programs of one operation together.

    Args:
      seconds: by program.
      text: of what was compiled, which tells the operation that a program ends with.
    """
    ends = dict(_FUSION.findall(text))
    total = sum(seconds.values()) or 1.0
    kinds: dict[str, list[float]] = collections.defaultdict(list)
    for program, passed in seconds.items():
        stem = re.sub(r"[.\d]+$", "", program)
        place = "/".join(ends.get(program, "").split("/")[1:][-2:])
        kinds[f"{stem} ({place})" if place else stem].append(passed)
    rows = [
        {"programs": len(of), "kind": kind, "share": sum(of) / total}
        for kind, of in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row["share"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu_aot.where")
    parser.add_argument("row", help="as 'eagc_channel/first/K4/float32'")
    parser.add_argument("--blocks", type=int, help="of the twelve in updates")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(worker.TPU_ENVIRONMENT)
        os.environ["LIBTPU_INIT_ARGS"] = _TOLD.format(folder=folder)
        start, text = _compile(options.row, options.blocks)
        paths = [path for path in Path(folder).iterdir() if path.is_file()]
        files = [Written(path.name, path.stat().st_mtime) for path in paths]
    files = [file for file in files if file.time >= start]
    rows = by_kind(seconds_by_program(files, start), text)
    print_table(rows[:25], {"programs": "d", "kind": "s", "share": ".1%"})
    return 0


def _compile(name: str, blocks: int | None) -> tuple[float, str]:
    """When compiling began, and the text of what came out."""
    from benchmarks.tpu_aot import cases, compiling

    known = {case.name: case for case in cases.all_cases()}
    if name not in known:
        raise SystemExit(f"no row is called {name}")
    mesh = cases.mesh_of(compiling.tpu_devices())
    program = cases.build(known[name], mesh, blocks=blocks)
    function = compiling.jitted(program, program.function)
    lowered = function.trace(*program.arguments).lower()
    start = time.time()
    return start, lowered.compile().as_text() or ""


if __name__ == "__main__":
    sys.exit(main())
