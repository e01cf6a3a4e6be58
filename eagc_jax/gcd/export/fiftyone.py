"""Export to FiftyOne."""

from __future__ import annotations

import json
import pathlib

from eagc_jax._files import JsonObject
from eagc_jax.gcd.export import pictures
from eagc_jax.gcd.export.registry import Chosen, class_names, register


@register("fiftyone", kinds=("image", "text"))
def fiftyone(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """A `fiftyone.types.FiftyOneImageClassificationDataset`: labels.json and data/.

    Each label has the index of its class, the probability as `confidence`, and as
    attributes the item's id, whether the category is known, the margin, and the label
    that was given, if one was. FiftyOne has no texts: of these `samples.jsonl` has the
    same, one on a line.

    References:
      https://docs.voxel51.com/user_guide/import_datasets.html#fiftyoneimageclassificationdataset
    """
    names = class_names(chosen)
    if chosen.records.kind == "text":
        return _texts(chosen, path, names)
    labels = {}
    for row in chosen.rows():
        place = _placed(chosen, row, path / "data")
        # What FiftyOne knows an image by is its file's name without the ending.
        labels[pathlib.Path(place).stem] = _label(chosen, row, names)
    text = json.dumps({"classes": names, "labels": labels}, ensure_ascii=True)
    (path / "labels.json").write_text(text, encoding="utf-8")
    return (
        f"fiftyone.Dataset.from_dir(dataset_dir={str(chosen.out)!r}, dataset_type="
        "fiftyone.types.FiftyOneImageClassificationDataset)",
    )


def _placed(chosen: Chosen, row: int, folder: pathlib.Path) -> str:
    """Its photo, under a name that differs from all others also without its ending."""

    def numbered(name: str) -> str:
        return f"{row:07d}-{name}"

    return pictures.place(chosen.records, row, folder, numbered, copy=chosen.copy)


def _label(chosen: Chosen, row: int, names: list[str]) -> JsonObject:
    found = chosen.assignment
    cluster, label = int(found.clusters[row]), int(found.labels[row])
    given = {"given": names[label]} if label >= 0 else {}
    return {
        "label": cluster,
        "confidence": round(float(found.probability[row]), 6),
        "attributes": {
            "item": found.ids[row],
            "is_known": cluster < found.num_known,
            "margin": round(float(found.margin[row]), 6),
            **given,
        },
    }


def _texts(chosen: Chosen, path: pathlib.Path, names: list[str]) -> tuple[str, ...]:
    with open(path / "samples.jsonl", "w", encoding="utf-8") as file:
        for row in chosen.rows():
            label = _label(chosen, row, names)
            label["label"] = names[label["label"]]
            sample = {"text": chosen.records.items[row], **label}
            file.write(f"{json.dumps(sample)}\n")
    return ("FiftyOne has no texts: samples.jsonl has one on each line",)
