"""Export to COCO JSON."""

from __future__ import annotations

import json
import pathlib

from eagc_jax._files import JsonObject
from eagc_jax._version import __version__
from eagc_jax.gcd.export import pictures
from eagc_jax.gcd.export.names import Free
from eagc_jax.gcd.export.registry import Chosen, class_names, register

_SUBSET = "default"


@register("coco", kinds=("image",))
def coco(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """`annotations/labels_default.json`, and photos in `images/default`.

    COCO has no task of classifying whole images, so tools agree on this much: an
    annotation that says of an image (`image_id`) which category it is (`category_id`).
    That is what Datumaro's format `coco_labels` reads, and from there what CVAT and
    others do; it takes `score` for the confidence, which is 1 of what was labeled, and
    photos that are copies, no links. For readers of the detection task each annotation
    also has a `bbox` that is the whole image. All ids count from 1. A category's
    `supercategory` is "known" or "novel".

    References:
      https://cocodataset.org/#format-data
      https://openvinotoolkit.github.io/datumaro/stable/docs/data-formats/formats/coco.html
    """
    found, free = chosen.assignment, Free()
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    for row in chosen.rows():
        width, height = pictures.size(chosen.records, row)
        folder = path / "images" / _SUBSET
        name = pictures.place(chosen.records, row, folder, free, copy=chosen.copy)
        images.append(
            {"id": row + 1, "width": width, "height": height, "file_name": name}
        )
        score = 1.0 if found.labels[row] >= 0 else float(found.probability[row])
        annotations.append(
            {
                "id": row + 1,
                "image_id": row + 1,
                "category_id": int(found.clusters[row]) + 1,
                "score": round(score, 6),
                "bbox": [0, 0, width, height],
                "area": width * height,
                "segmentation": [],
                "iscrowd": 0,
            }
        )
    content = {
        "info": {
            "description": chosen.records.name,
            "version": __version__,
            "contributor": "eagc_jax",
        },
        "licenses": [],
        "categories": _categories(chosen),
        "images": images,
        "annotations": annotations,
    }
    place = path / "annotations"
    place.mkdir()
    text = json.dumps(content, ensure_ascii=True)
    (place / f"labels_{_SUBSET}.json").write_text(text, encoding="utf-8")
    if chosen.copy:
        return ()
    return ("photos are links; Datumaro takes none, so use --copy for it",)


def _categories(chosen: Chosen) -> list[JsonObject]:
    known = chosen.assignment.num_known
    return [
        {
            "id": number + 1,
            "name": name,
            "supercategory": "known" if number < known else "novel",
        }
        for number, name in enumerate(class_names(chosen))
    ]
