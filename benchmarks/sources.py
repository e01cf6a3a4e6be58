"""Seconds and resident memory of listing a source and splitting it.

    python -m benchmarks.sources [--rows 1000000] [--kinds folder table] [--folder DIR]

A folder tree of empty files (two known classes of a hundred thousandth part each, the
rest unlabeled in folders of ten thousand), or a CSV table of as many paths, is made in a
temporary directory and taken away afterwards; ``--folder`` names one to make it in and to
leave it there. Then, in a process of its own for each kind, it is opened with
`open_source`, and split into its labeled and unlabeled rows with `select`; every id is
looked at once. ``MB`` is by how much resident memory has grown at its highest beyond a
process that has imported the library; ``whole process MB`` includes that.
"""

import argparse
import json
import multiprocessing
import pathlib
import resource
import sys
import tempfile
import time

KINDS = ("folder", "table")
_PER_FOLDER = 10_000


def make_folder(root: pathlib.Path, rows: int) -> pathlib.Path:
    """The tree's root; what is there already stays."""
    place = root / f"folder-{rows}"
    if place.exists():
        return place
    known = max(2, rows // 50)
    for row in range(rows):
        if row < known:
            folder = f"labeled/class-{row % 2}"
        else:
            folder = f"unlabeled/part-{row // _PER_FOLDER:04d}"
        if row < 2 or row == known or row % _PER_FOLDER == 0:
            (place / folder).mkdir(parents=True, exist_ok=True)
        (place / folder / f"photo-{row:09d}-of-a-camera.jpg").touch()
    return place


def make_table(root: pathlib.Path, rows: int) -> pathlib.Path:
    """The table's path; what is there already stays."""
    place = root / f"table-{rows}.csv"
    if place.exists():
        return place
    root.mkdir(parents=True, exist_ok=True)
    with open(place, "w") as file:
        file.write("path,label\n")
        for row in range(rows):
            label = f"class-{row % 2}" if row % 50 == 0 or row < 2 else ""
            file.write(f"part-{row // _PER_FOLDER:04d}/photo-{row:09d}.jpg,{label}\n")
    return place


def measure(place: pathlib.Path) -> dict[str, float]:
    """Of opening, splitting and going through the ids; run in a process of its own."""
    from eagc_jax.gcd import sources

    before = _highest()
    start = time.perf_counter()
    # The paths of the table lead nowhere; nobody looks.
    records = sources.open_source(place, on_bad_item="skip")
    opened = time.perf_counter()
    labeled = records.select(records.labeled_mask)
    unlabeled = records.select(~records.labeled_mask)
    split = time.perf_counter()
    characters = sum(map(len, records.ids))
    return {
        "rows": len(records),
        "labeled": len(labeled),
        "unlabeled": len(unlabeled),
        "open s": opened - start,
        "split s": split - opened,
        "ids s": time.perf_counter() - split,
        "characters": characters,
        "MB": _highest() - before,
        "whole process MB": _highest(),
    }


def _highest() -> float:
    """Resident memory of this process at its highest so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1000 if sys.platform != "darwin" else 1_000_000)


def run(rows: int, kinds: list[str], root: pathlib.Path) -> dict[str, dict[str, float]]:
    """The measurements of each kind."""
    make = {"folder": make_folder, "table": make_table}
    results = {}
    context = multiprocessing.get_context("spawn")
    for kind in kinds:
        start = time.perf_counter()
        place = make[kind](root, rows)
        print(f"{kind}: made in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        with context.Pool(1) as pool:
            results[kind] = pool.apply(measure, (place,))
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """As Markdown."""
    columns = ("rows", "open s", "split s", "ids s", "MB", "whole process MB")
    lines = [
        f"| source | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for kind, found in results.items():
        cells = [
            f"{found[c]:,.0f}" if c == "rows" else f"{found[c]:.2f}" for c in columns
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or pathlib.Path(temporary)
        results = run(arguments.rows, arguments.kinds, root)
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
