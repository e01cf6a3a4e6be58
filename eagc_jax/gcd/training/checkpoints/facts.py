"""What a run is made of, as short texts: those of a checkpoint must be the run's own."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import eagc_jax
from eagc_jax.gcd.sources import ArrayItems, ChosenItems, Items, Records
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.checkpoints.trees import is_key, shapes_of
from eagc_jax.gcd.training.epoch import program_of
from eagc_jax.gcd.training.views import ViewPool
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    from eagc_jax.gcd.backbones import Backbone
    from eagc_jax.gcd.training.loop import TrainingRun

_WHOLE = 2**28  # bytes up to which all of an array is looked at
_SAMPLED = 2**26  # of a larger one
_SHOWN = 80  # characters of a text
_MOST_SHOWN = 6  # facts in a message


class Given(NamedTuple):
    """What a run was made with, as `TrainingRun` takes it."""

    backbone: Backbone | None
    reference: Backbone | None
    pool: ViewPool | None
    features: np.ndarray | None
    neighbours: np.ndarray | None
    aggregator: optax.GradientTransformation | None


def of_run(run: TrainingRun, given: Given) -> dict[str, str]:
    """Of a run and what it was made with, arrays by their digests."""
    settings = of_settings(
        config=run.config, method=run.method, coordination=run._recipe.coordination
    )
    return {
        **settings,
        **of_records(run.records),
        "number of classes": str(run.task.num_classes),
        "width of the feature": str(run.task.width),
        "parameters": _shapes(run._carry.params),
        # Elsewhere all that counts of it is in the features and the views.
        "backbone": of_model(given.backbone if run.config.trains == "blocks" else None),
        "reference": of_model(given.reference),
        "views": "None" if given.pool is None else digest(given.pool.tokens),
        "features": digest(given.features),
        "neighbours": digest(given.neighbours),
        "aggregator": "None" if given.aggregator is None else _program(run),
    }


def _program(run: TrainingRun) -> str:
    params, state = run._own(run._carry.params), run._own(run._carry.opt_state)
    return parallel.digest(program_of(run._recipe, params, state))


def _shapes(params: PyTree) -> str:
    return parallel.digest(str([(n, x.shape) for n, x in shapes_of(params).items()]))


def of_settings(**settings: object) -> dict[str, str]:
    """Every field of dataclasses by its name; of other values their text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            found[name] = type(value).__name__
            found |= of_settings(**{f"{name}.{k}": v for k, v in fields.items()})
        else:
            found[name] = str(value)
    return found


def of_records(records: Records) -> dict[str, str]:
    """Of the items, as far as they are arrays, their names and labels."""
    ids = np.frombuffer(
        "\n".join(records.ids).encode("utf-8", "surrogateescape"), np.uint8
    )
    return {
        "items": str(len(records)),
        "known classes": str(records.num_known),
        "ids": parallel.digest(ids),
        "content of the items": _content(records.items),
        "labels": digest(records.labels),
    }


def _content(items: Items) -> str:
    """Of items in memory; others are known by their ids."""
    if isinstance(items, ChosenItems):
        return parallel.digest([_content(items.items), items.rows])
    return digest(items.array) if isinstance(items, ArrayItems) else "None"


def of_model(model: Backbone | None) -> str:
    """Of the arrays of a module, or of a backbone that is none; or "None"."""
    if model is None:
        return "None"
    if not isinstance(model, nnx.Module):
        return str(model.fingerprint())
    return digest_of_tree(nnx.to_pure_dict(nnx.state(model)))


def digest_of_tree(tree: PyTree) -> str:
    """Of all arrays of a tree; of large ones, of rows that are spread over them."""
    leaves, structure = jax.tree.flatten(tree)
    return parallel.digest([str(structure), *map(digest, leaves)])


def digest(array: np.ndarray | jax.Array | None) -> str:
    """Of an array, or of rows that are spread over a large one; or "None"."""
    if array is None:
        return "None"
    if isinstance(array, jax.Array) and is_key(array):
        array = jax.random.key_data(array)
    size = int(np.prod(np.shape(array), dtype=np.int64))
    bytes_of_all = size * getattr(array, "dtype", np.dtype(float)).itemsize
    if bytes_of_all <= _WHOLE:
        return parallel.digest(array)
    rows = max(_SAMPLED * len(array) // bytes_of_all, 1)
    chosen = np.unique(np.linspace(0, len(array) - 1, rows).astype(np.int64))
    return parallel.digest((np.asarray(np.shape(array)), array[chosen]))


def versions(mesh: Mesh | None) -> dict[str, str]:
    """Of what rounding depends on; a run that goes on with others is not the same."""
    device = jax.devices()[0]
    return {
        **_packages(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": str(1 if mesh is None else mesh.size),
    }


@functools.cache
def _packages() -> dict[str, str]:
    names = ("jax", "jaxlib", "optax", "flax", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def package_version() -> str:
    """Of eagc_jax."""
    return eagc_jax.__version__


def differences(theirs: Mapping[str, object], ours: Mapping[str, str]) -> str:
    """What differs, as text for a message; empty where nothing does."""
    differ = []
    for name in dict.fromkeys([*ours, *theirs]):
        old, new = theirs.get(name, "nothing"), ours.get(name, "nothing")
        if old != new:
            differ.append(f"{_short(name)} ({_short(old)} there, {_short(new)} here)")
    more = len(differ) - _MOST_SHOWN
    return ", ".join(differ[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
