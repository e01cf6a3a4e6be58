"""How long the page takes to write, and how large it is.

    python -m benchmarks.page [--items 10000] [--width 384] [--photos]

Made-up items around 77 centres, half of these known; texts, or photos of 348 x 348 pixels
(sixty different ones, by turns). The first answer is found before; what is measured is
the page alone: layout of the map, facts on clusters and items, pictures, the file.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile
import time

import numpy as np

from eagc_jax.gcd import ClusteringSettings, DiscoverSettings, discover
from eagc_jax.gcd.report.explorer import write_page
from eagc_jax.gcd.sources import ArrayItems, ChosenItems, Records
from eagc_jax.gcd.sources.records import Items, Kind
from eagc_jax.gcd.sources.strings import RowNumbers, Strings
from eagc_jax.gcd.sources.texts import Texts

CLASSES, KNOWN, PHOTOS, PIXELS = 77, 39, 60, 348


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--photos", action="store_true")
    options = parser.parse_args(arguments)
    settings = DiscoverSettings(
        clustering=ClusteringSettings(num_classes=CLASSES, restarts=1), quick=True
    )
    found = discover(embedded(options.items, options.width), settings)
    kind, items = shown_as(options.items, photos=options.photos)
    records = dataclasses.replace(found.records, kind=kind, items=items)
    found = dataclasses.replace(found, records=records)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "page.html")
        wall, processor = time.perf_counter(), time.process_time()
        write_page(found, path)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        size = path.stat().st_size / 1e6
    print(
        f"{options.items:,} of kind {kind}, {options.width} wide: {wall:.1f} s "
        f"({processor:.1f} s of processors), {size:.1f} MB"
    )
    return 0


def embedded(number: int, width: int) -> Records:
    """Clouds around as many centres as there are classes."""
    random = np.random.default_rng(0)
    classes = np.arange(number) % CLASSES
    rows = random.normal(size=(CLASSES, width))[classes]
    rows = (rows + 0.8 * random.normal(size=rows.shape)).astype(np.float32)
    labeled = (classes < KNOWN) & (np.arange(number) // CLASSES % 2 == 0)
    return Records(
        "made up",
        "embedding",
        ArrayItems(rows),
        ids=RowNumbers(number),
        labels=np.where(labeled, classes, -1).astype(np.int32),
        class_names=tuple(f"class {i}" for i in range(KNOWN)),
        num_known=KNOWN,
    )


def shown_as(number: int, *, photos: bool) -> tuple[Kind, Items]:
    """What the page shows of them."""
    if not photos:
        return "text", Texts(
            Strings.of(f"what is question {i}?" for i in range(number))
        )
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, size=(PHOTOS, 12, 12, 3), dtype=np.uint8)
    pixels = coarse.repeat(PIXELS // 12, axis=1).repeat(PIXELS // 12, axis=2)
    return "image", ChosenItems(ArrayItems(pixels), np.arange(number) % PHOTOS)


if __name__ == "__main__":
    sys.exit(main())
