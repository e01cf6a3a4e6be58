"""What is discovered, and how: settings that command, call and run folder share.

This file imports no JAX, so that the command line answers `--help` at once.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Where the items are, and which columns of a table say what."""

    # A folder of photos, a table (.csv, .tsv, .parquet), embeddings (.npy, .npz or
    # .parquet), or a benchmark by its name, as in banking77:FOLDER.
    data: Annotated[Positional[str | None], arg(metavar="DATA")] = None
    # Of texts. None for no such column; likewise the next ones.
    text_column: str | None = "text"
    # Of images' paths, relative to the table's folder.
    path_column: str | None = "path"
    # Of known classes; empty where a row is unlabeled.
    label_column: str | None = "label"
    # Unique. Without it, rows are numbered from 0.
    id_column: str | None = "id"
    # Of parts such as train and test. Not needed.
    split_column: str | None = "split"
    # Of true classes, to print scores; it changes nothing else.
    truth_column: str | None = None
    # What to do about an item that can't be read: stop, or leave it out and list it.
    on_bad_item: Literal["raise", "skip"] = "raise"


@dataclasses.dataclass(frozen=True)
class BackboneSettings:
    """The network that gives an item its feature.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    # By default efficientnet-lite0 for photos, minilm for texts, none for embeddings.
    name: Annotated[str | None, arg(name="backbone", metavar="NAME")] = None
    # File of weights (.pth, .safetensors, .npz); by default an installed package's.
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    # Of the matrix products.
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    # Height and width that photos are brought to, in pixels.
    image_size: int | None = None
    # Items embedded at once.
    batch_size: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, "image_size", "batch_size")


@dataclasses.dataclass(frozen=True)
class ClusteringSettings:
    """Semi-supervised k-means on the features.

    Raises:
      ValueError: a number is out of its range; the message names the field.
    """

    # Known plus novel classes. Estimated unless given.
    num_classes: int | None = None
    # Independent starts of k-means, of which the best counts.
    restarts: int = 10
    # Of each start.
    max_iterations: int = 200
    # Whether no cluster may be larger than the mean, unless by its labeled items.
    balanced: bool = False

    def __post_init__(self) -> None:
        _at_least_one(self, "num_classes", "restarts", "max_iterations")


def _at_least_one(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
