"""How long a second run takes to find its features in the cache, and in what memory.

    python -m benchmarks.feature_cache [--json FILE] [--rows 100000 1000000]

A program of its own fills a cache; another then embeds the same records, and finds all
of them. `fill_s` is the first one's time less the backbone's; `second_s` is the whole
call of `embed` in the second, whose parts are `digests_s` (here a counter's bytes, for
files it is their content's digest), `open_s` (the shards' headers and digests),
`find_s` (sort the digests, look up, check the shards' sums) and `order_s` (give the rows
their order: many features are written to a file for that, and mapped).
`peak_mb` is by how much the second call raised the resident memory at its highest, with
pages of files that are mapped; `features_mb` is the size of the features alone. The
files are in the system's page cache still, as they were just written.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import add_json_option, machine, print_table, write_json
from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import embed
from eagc_jax.gcd.backbones.cache import FeatureStore

_ADDED = 2**14  # rows that the first program adds at a time


class Numbered:
    """Items that nobody reads; the digest is made of the row's number."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        raise AssertionError(f"row {row} should have been in the cache")

    def digest(self, row: int) -> bytes:
        """Of no content."""
        # Multiplied, so that the digests' order is not that of the rows.
        return (row * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16)


class Unused:
    """A backbone that has a width and a name."""

    kind, depth, preparation = "embedding", 0, "none"

    def __init__(self, width: int):
        self.width = width

    def fingerprint(self) -> str:
        """The name."""
        return "unused"


def fill(folder: str, count: int, width: int) -> float:
    """Writes features of all items; seconds that the cache took."""
    items, store = Numbered(count), FeatureStore(folder, "unused", "none", width)
    random, seconds = np.random.default_rng(0), 0.0
    for start in range(0, count, _ADDED):
        rows = range(start, min(start + _ADDED, count))
        digests = np.array([items.digest(row) for row in rows], "S16")
        features = random.normal(size=(len(rows), width)).astype(np.float32)
        before = time.perf_counter()
        store.add(digests, features)
        seconds += time.perf_counter() - before
    before = time.perf_counter()
    store.flush()
    return seconds + time.perf_counter() - before


def second_run(folder: str, count: int, width: int) -> dict[str, Any]:
    """Embeds the same items again, with the seconds of its parts."""
    parts = {"digests_s": 0.0, "open_s": 0.0, "find_s": 0.0, "order_s": 0.0}
    timed(embed.__globals__, "_digests", "digests_s", parts)
    timed_method("__init__", "open_s", parts)
    timed_method("find", "find_s", parts)
    timed_method("ordered", "order_s", parts)
    records = sources.Records(
        "numbers",
        "embedding",
        Numbered(count),
        ids=range(count),  # pyright: ignore[reportArgumentType]
        labels=np.zeros(count, np.int32),
        class_names=("known",),
        num_known=1,
    )
    before = peak_megabytes()
    found = embed(records, Unused(width), cache=folder)  # pyright: ignore
    assert found.embedded == 0
    return {
        "second_s": found.seconds,
        **parts,
        "peak_mb": peak_megabytes() - before,
        "features_mb": found.features.nbytes / 1e6,
    }


def timed(names: dict[str, Any], name: str, part: str, parts: dict[str, float]):
    """Puts a function in the place of names[name] that adds its time to the part."""
    function = names[name]

    def measured(*arguments):
        before = time.perf_counter()
        result = function(*arguments)
        parts[part] += time.perf_counter() - before
        return result

    names[name] = measured


def timed_method(name: str, part: str, parts: dict[str, float]):
    methods = {name: getattr(FeatureStore, name)}
    timed(methods, name, part, parts)
    setattr(FeatureStore, name, methods[name])


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(count: int, width: int, parent: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        filled = in_a_program(fill, folder, count, width)
        files = len(list(Path(folder).rglob("*.safetensors")))
        second = in_a_program(second_run, folder, count, width)
    return {
        "rows": count, "width": width, "files": files, "fill_s": filled, **second,
    }  # fmt: skip


def in_a_program(function, *arguments):
    """In a new process: what ran before has no part in its memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--folder", type=Path, help="where to make the cache")
    given = parser.parse_args()
    print(machine())
    rows = [measure(count, given.width, given.folder) for count in given.rows]
    seconds = ("fill_s", "second_s", "digests_s", "open_s", "find_s", "order_s")
    formats = {
        "rows": "d",
        "width": "d",
        "files": "d",
        **dict.fromkeys(seconds, ".2f"),
        "peak_mb": ".0f",
        "features_mb": ".0f",
    }
    print_table(rows, formats)
    write_json(given.json, rows)


if __name__ == "__main__":
    main()
