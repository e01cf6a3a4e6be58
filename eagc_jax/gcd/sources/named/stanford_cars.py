"""Stanford Cars: cars of 196 makes, models and years."""

from __future__ import annotations

import os
import pathlib
import zlib

import numpy as np

from eagc_jax.gcd.sources.images import ImageFiles
from eagc_jax.gcd.sources.named._places import locate, need
from eagc_jax.gcd.sources.named._splits import as_published
from eagc_jax.gcd.sources.posing import fully_labeled
from eagc_jax.gcd.sources.records import Records
from eagc_jax.gcd.sources.registry import register
from eagc_jax.gcd.sources.strings import Strings, shown

_CLASSES = 196
_TITLE = "Stanford Cars"
_ADVICE = (
    "Give the folder that holds cars_train/*.jpg and devkit/cars_train_annos.mat (the "
    "labels of the test images, which are hard to find, are not needed)."
)


@register("stanford-cars")
def stanford_cars(root: str | os.PathLike[str] | None = None) -> Records:
    """8,144 training photographs of cars; 98 of 196 classes are known.

    Args:
      root: the folder that holds cars_train and devkit.

    Returns:
      Records of uint8 (H, W, 3) images, in the order of the annotations.

    Raises:
      FileNotFoundError: the data is not there.
      ValueError: the annotations are not what they should be.

    References:
      Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
    """
    place = locate(_TITLE, root, ["stanford_cars", "cars"], _ADVICE)
    need(_TITLE, place, "cars_train", _ADVICE)
    annotations = need(_TITLE, place, "devkit/cars_train_annos.mat", _ADVICE)
    found = _matlab(annotations, "annotations")
    try:
        ids = Strings.of(f"cars_train/{one['fname']}" for one in found)
        classes = np.array([int(one["class"]) - 1 for one in found])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{shown(annotations)} should hold annotations with `fname` and `class`; "
            f"{error} went wrong"
        ) from error
    records = fully_labeled(
        "stanford-cars", "image", ImageFiles(place, ids), ids, classes, _names(place)
    )
    return as_published("stanford-cars", records)


def _names(place: pathlib.Path) -> tuple[str, ...]:
    meta = place / "devkit" / "cars_meta.mat"
    if not meta.exists():
        return tuple(str(number + 1) for number in range(_CLASSES))
    return tuple(str(name) for name in _matlab(meta, "class_names"))


def _matlab(path: pathlib.Path, key: str) -> np.ndarray:
    """At least one entry, each a text, a number or a dict."""
    from scipy import io
    from scipy.io.matlab import MatReadError

    try:
        return np.atleast_1d(io.loadmat(path, simplify_cells=True)[key])
    except KeyError as error:
        raise ValueError(f"{shown(path)} should hold `{key}`, found none") from error
    except (MatReadError, ValueError, OSError, TypeError, zlib.error) as error:
        raise ValueError(f"{shown(path)} can't be read: {error}") from error
