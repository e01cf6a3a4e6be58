"""Export to Label Studio."""

from __future__ import annotations

import json
import os
import pathlib
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from eagc_jax._files import JsonObject
from eagc_jax._version import __version__
from eagc_jax.gcd.export import pictures
from eagc_jax.gcd.export.names import Free
from eagc_jax.gcd.export.registry import Chosen, class_names, register
from eagc_jax.gcd.sources import Kind

_CHOICES, _ITEM = "category", "item"  # names of the tags; results refer to them


@register("label-studio", kinds=("text", "image"))
def label_studio(chosen: Chosen, path: pathlib.Path) -> tuple[str, ...]:
    """`tasks.json` to import into a project whose labeling interface is `config.xml`.

    One task an item. What was labeled is an annotation, of the ground truth; what was
    not has a prediction, with its probability as `score`, to be accepted or corrected.
    `data` also has the item's id and the category that it was given, to sort and filter.
    Texts are in the tasks; photos are served by Label Studio from their folder, which it
    must be told of (`LOCAL_FILES_DOCUMENT_ROOT`); the export says how.

    References:
      https://labelstud.io/guide/predictions
      https://labelstud.io/guide/tasks
      https://labelstud.io/guide/storage#Local-storage
    """
    names = class_names(chosen)
    kind = chosen.records.kind
    notes = [
        f"paste config.xml as the project's labeling interface, import {chosen.out}"
    ]
    places: list[str] = []
    if kind == "image":
        root, files = _files(chosen, path)
        places = [f"/data/local-files/?d={quote(_below(root, file))}" for file in files]
        notes.append(_serving(root, files))
    with open(path / "tasks.json", "w", encoding="utf-8") as file:
        file.write("[")
        # Of photos, what takes the time is over: they are copied, or stay where they are.
        for row in range(len(places)) if kind == "image" else chosen.rows():
            item = places[row] if kind == "image" else _text(chosen.records.items[row])
            task = _task(chosen, row, names, {kind: item})
            file.write(f"{',' if row else ''}\n{json.dumps(task)}")
        file.write("\n]\n")
    config = _config(kind, names)
    (path / "config.xml").write_text(config, encoding="utf-8")
    return tuple(notes)


def _task(
    chosen: Chosen, row: int, names: list[str], data: dict[str, str]
) -> JsonObject:
    found = chosen.assignment
    category = names[int(found.clusters[row])]
    data = {**data, "item_id": found.ids[row], "category": category}
    label = int(found.labels[row])
    if label >= 0:
        annotation = {"result": [_result(names[label])], "ground_truth": True}
        return {"data": data, "annotations": [annotation]}
    prediction = {
        "model_version": f"eagc_jax {__version__}",
        "score": round(float(found.probability[row]), 6),
        "result": [_result(category)],
    }
    return {"data": data, "predictions": [prediction]}


def _result(name: str) -> JsonObject:
    return {
        "from_name": _CHOICES,
        "to_name": _ITEM,
        "type": "choices",
        "value": {"choices": [name]},
    }


def _config(kind: Kind, names: list[str]) -> str:
    tag = "Text" if kind == "text" else "Image"
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    return (
        f'<View>\n  <{tag} name="{_ITEM}" value="${kind}"/>\n'
        f'  <Choices name="{_CHOICES}" toName="{_ITEM}" choice="single">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def _files(chosen: Chosen, path: pathlib.Path) -> tuple[str, list[str]]:
    """Where each photo lies, and the folder that Label Studio serves them from."""
    records = chosen.records
    files = [pictures.file_of(records, row) for row in range(len(records))]
    there = [file for file in files if file is not None]
    if not chosen.copy and len(there) == len(files):
        folder = os.path.commonpath([os.path.dirname(file) for file in there])
        # The folder that is added as storage may not be the root itself.
        return os.path.dirname(folder), there
    free = Free()
    names = [
        pictures.place(records, row, path / "images", free, copy=True)
        for row in chosen.rows()
    ]
    return str(chosen.out.parent), [str(chosen.out / "images" / name) for name in names]


def _below(root: str, file: str) -> str:
    return pathlib.Path(os.path.relpath(file, root)).as_posix()


def _serving(root: str, files: list[str]) -> str:
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    return (
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}, and add {folder} to the project "
        "as local storage"
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
