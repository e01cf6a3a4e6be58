"""CLINC150: what people ask an assistant."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Literal

from eagc_jax.gcd.sources.named._places import locate
from eagc_jax.gcd.sources.posing import fully_labeled, pose_half
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import RowNumbers, Strings, shown
from eagc_jax.gcd.sources.tables import encode
from eagc_jax.gcd.sources.texts import Texts

Part = Literal["train", "val", "test"]

_FILES = ("clinc150.json", "data_full.json")
_ADVICE = (
    "Give data_full.json from the repository github.com/clinc/oos-eval (folder data), "
    "also as clinc150.json, or the folder that holds it."
)


@register("clinc150")
def clinc150(
    root: str | os.PathLike[str] | None = None, *, part: Part = "train", seed: int = 0
) -> Records:
    """15,000 requests with 150 intents, every second of them known.

    There is no published split for discovery: known classes, and half of each one's
    requests that are labeled, are drawn by `seed`. Requests out of scope are left out.

    Args:
      root: the JSON file, or the folder that holds it.
      part: "train", "val" or "test"; 15,000, 3,000 and 4,500 requests.
      seed: of the draws.

    Returns:
      Records of texts in the file's order; ids are numbers in the part.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: the file is not what it should be, or has no such part.

    References:
      Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope
      Prediction", EMNLP 2019.
    """
    places = [folder + file for folder in ("", "text/", "clinc150/") for file in _FILES]
    place = locate("CLINC150", root, places, _ADVICE)
    if place.is_dir():
        raise FileNotFoundError(
            f"{shown(place)} holds no {' or '.join(_FILES)}. {_ADVICE}"
        )
    pairs = _pairs(place, part)
    texts = Strings.of(text for text, _ in pairs)
    names, classes = encode(Strings.of(intent for _, intent in pairs))
    ids = RowNumbers(len(pairs))
    records = fully_labeled("clinc150", "text", Texts(texts), ids, classes, names)
    return pose_half(records, seed=seed)


def _pairs(place: pathlib.Path, part: Part) -> list[tuple[str, str]]:
    try:
        parts = json.loads(place.read_text(encoding="utf-8"))
        if part not in parts:
            raise ValueError(f"part must be one of {', '.join(parts)}, got {part!r}")
        return [(str(text), str(intent)) for text, intent in parts[part]]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{shown(place)} should hold lists of [text, intent] by part: {error}"
        ) from error
