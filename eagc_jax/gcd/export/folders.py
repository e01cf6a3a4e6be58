"""Export to a folder for each category."""

from __future__ import annotations

import pathlib

from eagc_jax.gcd.export import pictures
from eagc_jax.gcd.export.names import Free, safe
from eagc_jax.gcd.export.registry import Chosen, register
from eagc_jax.gcd.runs.assignment import csv_lines

CLASSES = "classes.csv"


@register("folders", kinds=("image", "text"))
def folders(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """A folder for each category, with its photos, or each of its texts as a file.

    What `torchvision.datasets.ImageFolder`, `keras.utils.image_dataset_from_directory`,
    `sklearn.datasets.load_files` and `eagc` itself read. Folders are named after their
    categories, but for what a file system does not take; `classes.csv` says which is
    which. Photos are links to the originals, or copies.

    References:
      https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
      https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_files.html
    """
    found = chosen.assignment
    free, places = Free(), {}
    for cluster in sorted(set(found.clusters.tolist())):
        places[cluster] = free(safe(found.names[cluster]))
    names = {cluster: Free() for cluster in places}
    for row in chosen.rows():
        cluster = int(found.clusters[row])
        _place(chosen, row, path / places[cluster], names[cluster])
    sizes, header = found.sizes, ("folder", "category", "is_known", "items")
    rows = [
        (place, found.names[cluster], cluster < found.num_known, int(sizes[cluster]))
        for cluster, place in places.items()
    ]
    text = "".join(csv_lines(header, rows))
    (path / CLASSES).write_text(text, encoding="utf-8", newline="")
    if chosen.copy or chosen.records.kind == "text":
        return ()
    return ("photos are links to the originals; --copy makes copies",)


def _place(chosen: Chosen, row: int, folder: pathlib.Path, free: Free) -> None:
    if chosen.records.kind == "image":
        pictures.place(chosen.records, row, folder, free, copy=chosen.copy)
        return
    folder.mkdir(exist_ok=True)
    name = free(safe(chosen.assignment.ids[row], ending=".txt"))
    text = chosen.records.items[row]
    (folder / name).write_text(text, encoding="utf-8", errors="replace", newline="")
