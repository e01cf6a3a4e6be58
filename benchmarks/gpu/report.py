"""The report: a JSON file that is whole after every figure, and its tables.

``{"format": 1, "device", "versions", "settings", "parts", "seconds",
"finished"}``. A part is ``{"part", "title", "seconds", "rows", "missing", "why"}``; a row
holds the figures that `COLUMNS` names for its kind of part, None for what couldn't be
measured, and ``error``, None or why. ``missing`` names rows that aren't there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import optax

import eagc_jax
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.context import Part
from benchmarks.timing import print_table, write_json

FORMAT = 1
OUT_OF_TIME = "out of time"

# Of the rows of each kind of part, what comes before the "/" in its name; with the format
# that the table has.
COLUMNS: dict[str, dict[str, str]] = {
    "bandwidth": {
        "copy": "s",
        "bytes": ".2e",
        "seconds": ".2e",
        "gb_per_second": ".1f",
    },
    "precision": {
        "num_objectives": "d",
        "way": "s",
        "largest_difference": ".1e",
    },
    "coordinators": {
        "method": "s",
        "num_objectives": "d",
        "dtype": "s",
        "bound_bytes": ".2e",
        "seconds": ".2e",
        "host_seconds": ".2e",
        "share": ".3f",
        "goal": ".2f",
        "trace_seconds": ".2f",
        "compile_seconds": ".2f",
    },
    "training": {
        "model": "s",
        "dtype": "s",
        "step": "s",
        "seconds": ".2e",
        "host_seconds": ".2e",
        "over_plain": ".3f",
        "over_two_passes": ".3f",
        "goal": ".2f",
        "model_flops": ".2e",
        "flops_utilisation": ".3f",
        "compile_seconds": ".2f",
    },
    "memory": {
        "method": "s",
        "num_objectives": "d",
        "dtype": "s",
        "donated_bytes": ".3e",
        "undonated_bytes": ".3e",
    },
}
_KEYS = {
    "format",
    "device",
    "versions",
    "settings",
    "parts",
    "seconds",
    "finished",
}
_PART_KEYS = {"part", "title", "seconds", "rows", "missing", "why"}


class Report:
    """Collects rows, and writes the file anew after each of them.

    Two threads use it: the one that measures, and the one that ends the program when the
    time is up in the middle of a measurement.
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict[str, Any],
        clock: Clock,
        parts: list[Part],
    ):
        self._path, self._clock = path, clock
        self._lock = threading.RLock()
        self.current: dict[str, Any] | None = None
        self._started = 0.0
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "device": device(),
            "versions": versions(),
            "settings": settings,
            "parts": [
                {
                    "part": part.name,
                    "title": part.title,
                    "seconds": 0.0,
                    "rows": [],
                    "missing": list(part.names),
                    "why": OUT_OF_TIME,  # unless it is reached after all
                }
                for part in parts
            ],
            "seconds": 0.0,
            "finished": False,
        }
        self._save()

    def begin(self, name: str) -> dict[str, Any]:
        """The part that rows are added to from now on."""
        with self._lock:
            self._started = self._clock.passed()
            found = [p for p in self.content["parts"] if p["part"] == name]
            self.current = found[0]
            return found[0]

    def add(self, row: dict[str, Any]) -> None:
        """The next row of the part that has begun."""
        with self._lock:
            part = self._part()
            columns = COLUMNS[kind(part["part"])]
            unknown = row.keys() - columns.keys() - {"error"}
            if unknown:
                raise KeyError(f"{part['part']} has no columns {sorted(unknown)}")
            part["rows"].append({**dict.fromkeys([*columns, "error"]), **row})
            del part["missing"][0]
            if not part["missing"]:
                part["why"] = None
            self._save()

    def fail(self, why: str) -> None:
        """The part that has begun can't go on."""
        with self._lock:
            self._part()["why"] = why
            self._save()

    def finish(self) -> None:
        """The last word."""
        with self._lock:
            self.content["finished"] = True
            self._save()

    def hold(self) -> None:
        """Keeps every other thread from changing the report, for good."""
        self._lock.acquire()

    def _part(self) -> dict[str, Any]:
        if self.current is None:
            raise RuntimeError("no part has begun")
        return self.current

    def _save(self) -> None:
        self.content["seconds"] = round(self._clock.passed(), 2)
        if self.current is not None:
            passed = self._clock.passed() - self._started
            self.current["seconds"] = round(passed, 2)
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # once for each row says nothing
            write_json(self._path, self.content)


def device() -> dict[str, Any]:
    """What is measured on."""
    found = jax.devices()[0]
    memory = found.memory_stats() or {}
    return {
        "kind": found.device_kind,
        "platform": found.platform,
        "memory_bytes": memory.get("bytes_limit"),
        "host_cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Of what takes part."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "optax": optax.__version__,
        "flax": flax.__version__,
        "eagc_jax": eagc_jax.__version__,
    }


def kind(part: str) -> str:
    """Of a part, by its name: "training/ViT-S/16/bfloat16" is of kind "training"."""
    return part.partition("/")[0]


def read(path: Path) -> dict[str, Any]:
    """A report from its file; raises ValueError for a file that holds none."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} isn't JSON: {error}") from error
    check(found)
    return found


def check(found: Any) -> None:
    """Raises ValueError for what isn't a report of this format."""
    if not isinstance(found, dict) or found.keys() != _KEYS:
        raise ValueError(f"a report has the keys {sorted(_KEYS)}")
    if found["format"] != FORMAT:
        raise ValueError(f"a report of format {FORMAT}, got {found['format']!r}")
    for part in found["parts"]:
        if part.keys() != _PART_KEYS or kind(part["part"]) not in COLUMNS:
            raise ValueError(f"not a part: {part}")
        wanted = {*COLUMNS[kind(part["part"])], "error"}
        for row in part["rows"]:
            if row.keys() != wanted:
                raise ValueError(
                    f"a row of {part['part']} has the keys {sorted(wanted)}, "
                    f"got {sorted(row)}"
                )


def print_report(found: dict[str, Any]) -> None:
    """All tables, as Markdown, with what failed and what wasn't measured."""
    print_head(found)
    for part in found["parts"]:
        if part["rows"]:
            print_part(part)
    print_missing(found)


def print_head(found: dict[str, Any]) -> None:
    """What was measured on, and how."""
    where, settings = found["device"], found["settings"]
    print(
        f"{where['kind']} ({where['platform']}), {where['host_cores']} cores; ", end=""
    )
    print(", ".join(f"{name} {value}" for name, value in found["versions"].items()))
    print(
        f"at most {settings['minutes']:g} minutes; programs are compiled "
        f"{settings['threads']} at a time"
    )
    if settings["tiny"]:
        print("tiny sizes: the figures say nothing about speed")
    sys.stdout.flush()


def print_part(part: dict[str, Any]) -> None:
    """A part's table: a dash for what has no figure; then what went wrong."""
    print(f"\n{part['part']}: {part['title']} ({part['seconds']:.0f} s)\n")
    columns = COLUMNS[kind(part["part"])]
    shown = [
        {
            name: "-" if row[name] is None else format(row[name], spec)
            for name, spec in columns.items()
        }
        for row in part["rows"]
    ]
    if shown:
        print_table(shown, dict.fromkeys(columns, "s"))
    for row in part["rows"]:
        if row["error"]:
            named = [str(row[name]) for name, spec in columns.items() if spec == "s"]
            print(f"error: {', '.join(named)}: {row['error']}")
    sys.stdout.flush()


def print_missing(found: dict[str, Any]) -> None:
    """What wasn't measured, by name, and why."""
    print()
    for part in found["parts"]:
        if part["missing"]:
            what = ", ".join(part["missing"]) if part["rows"] else "all of it"
            print(f"not measured: {part['part']}: {what} ({part['why']})")
    state = "done" if found["finished"] else "still running, or killed,"
    print(f"{state} after {found['seconds']:.0f} s")
    sys.stdout.flush()
