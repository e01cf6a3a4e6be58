"""How an answer came about and how far to trust it, as plain values."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import SupportsFloat

import jax
import numpy as np

import eagc_jax
from eagc_jax._files import JsonObject
from eagc_jax.gcd.evaluation.rehearsal.result import Interval
from eagc_jax.gcd.runs.assignment import printable
from eagc_jax.gcd.runs.discovery import Discovery
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.settings.plain import to_plain

_PACKAGES = ("jax", "optax", "flax", "numpy", "scikit-learn")
_LAYERS = 200  # of the coordinator's table
_LETTERS = 500  # of a setting
_DECIDED = {
    "gate": "Gates: the factor by which each objective's gradient was multiplied",
    "weight": "Weights of the objectives, as the aggregator chose them",
    "projection": "Projections: the share of the conflicting part that was taken out",
}


def facts(discovery: Discovery) -> JsonObject:
    """Rehearsal, number of classes, scores, training, settings and versions."""
    history = discovery.history
    if history is None and discovery.training is not None:
        history = discovery.training.history
    return {
        "rehearsal": _rehearsal(discovery),
        "classes": _classes(discovery),
        "scores": _scores(discovery),
        "curves": [] if history is None else _curves(history),
        "coordinator": None if history is None else _coordinator(history),
        "protocol": _protocol(discovery),
        "seconds": [[k, round(v, 2)] for k, v in discovery.seconds.items()],
        "settings": [[k, v] for k, v in _flat(to_plain(discovery.settings))],
        "versions": _versions(),
    }


def _rehearsal(discovery: Discovery) -> JsonObject | None:
    found = discovery.rehearsal
    if found is None:
        return None
    return {
        "chosen": found.chosen,
        "reason": found.reason,
        "leftOut": list(found.left_out),
        "candidates": [
            {
                "name": one.name,
                "trials": len(one.trials),
                "new": _interval(one.new),
                "old": _interval(one.old),
                "all": _interval(one.all),
            }
            for one in found.candidates
        ],
    }


def _interval(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.low, found.expected, found.high]


def _classes(discovery: Discovery) -> JsonObject:
    estimate = discovery.estimate
    found: JsonObject = {"number": discovery.num_classes, "low": None, "high": None}
    if estimate is not None:
        found |= {"low": int(estimate.low), "high": int(estimate.high)}
        curve = np.asarray(estimate.curve, float)
        found["curve"] = _curve(
            "The number of classes: the score of each number that was tried",
            "classes",
            curve[:, 0],
            {"score": curve[:, 1]},
        )
    return found


def _scores(discovery: Discovery) -> list[list[str | float | None]]:
    if discovery.scores is None:
        return []
    names = {"all": "All", "old": "Old", "new": "New", "ari": "ARI", "nmi": "NMI"}
    values = discovery.scores._asdict()
    return [[names.get(name, name), _number(value)] for name, value in values.items()]


def _curves(history: RunHistory) -> list[JsonObject]:
    epochs = np.asarray(history.epochs, float)
    curves = [
        _curve(
            "Loss of each objective, its mean over an epoch", "epoch", epochs, losses
        )
        for losses in [dict(history.losses)]
        if any(losses.values())
    ]
    accuracy = np.array(history.accuracy, float).reshape(-1, 3)
    if np.isfinite(accuracy).any():
        groups = ("All", "Old", "New")
        columns = {group: accuracy[:, i] for i, group in enumerate(groups)}
        title = "Accuracy on unlabeled items, by their true classes"
        curves.append(_curve(title, "epoch", epochs, columns))
    deviation = history.gradient_deviation
    if np.isfinite(deviation).any():
        title = "How far the objectives' gradients are from their sum (GDC)"
        curves.append(_curve(title, "epoch", epochs, {"GDC": deviation}))
    return curves


def _coordinator(history: RunHistory) -> JsonObject | None:
    if not history.decided:
        return None
    decided = np.asarray(history.decided, float)  # (E, K, L)
    epochs = np.asarray(history.epochs, float)
    names = history.objective_names
    title = _DECIDED.get(history.decision or "", "What was decided")
    curves = [
        _curve(
            f"{title}; mean over {len(history.layers)} layers",
            "epoch",
            epochs,
            {name: decided[:, k].mean(axis=1) for k, name in enumerate(names)},
        )
    ]
    if history.energy:
        energy = np.asarray(history.energy, float)
        title = (
            "Energy: how much each objective wants to move a layer; mean over layers"
        )
        means = {name: energy[:, k].mean(axis=1) for k, name in enumerate(names)}
        curves.append(_curve(title, "epoch", epochs, means))
    layers = [
        [printable(layer), *map(_number, decided[-1, :, i])]
        for i, layer in enumerate(history.layers[:_LAYERS])
    ]
    return {
        "curves": curves,
        "title": f"{_DECIDED.get(history.decision or '', title)}, last epoch",
        "objectives": list(names),
        "layers": layers,
        "leftOut": max(len(history.layers) - _LAYERS, 0),
    }


def _curve(
    title: str, label: str, x: np.ndarray, lines: Mapping[str, Iterable[float]]
) -> JsonObject:
    """Lines over the same x; those that are shorter end earlier."""
    places = [_number(value) for value in x]

    def padded(values: Iterable[float]) -> list[float | None]:
        found = [_number(value) for value in values][: len(places)]
        return [*found, *[None] * (len(places) - len(found))]

    return {
        "title": title,
        "label": label,
        "x": places,
        "lines": [[name, padded(values)] for name, values in lines.items()],
    }


def _protocol(discovery: Discovery) -> list[str]:
    records, assignment = discovery.records, discovery.assignment
    labeled = int(records.labeled_mask.sum())
    known = assignment.num_known
    told = [
        f"{len(records):,} items; {labeled:,} are labeled with {known} known classes, "
        f"{len(records) - labeled:,} are not labeled. Known and novel classes lie mixed "
        "among these, and nothing says which is which.",
        f"Features by {discovery.backbone or 'the backbone'}. The first answer is "
        "semi-supervised k-means on them: labeled items stay with their class.",
    ]
    history = discovery.history or getattr(discovery.training, "history", None)
    if history is not None:
        told.append(
            f"Training went on from it for {len(history.epochs)} epochs. The answer "
            f"shown is: {discovery.chosen}."
        )
    told.append(
        "A probability says how much nearer an item lies to the centre of its cluster "
        "than to others, on a scale fitted to the labeled items."
    )
    if discovery.scores is not None:
        told.append(
            "Accuracy is the share of unlabeled items whose cluster is matched with "
            "their true class, under the best matching of clusters with classes one to "
            "one; Old and New are the shares among items of known and of novel classes. "
            "True classes are used for this alone."
        )
    decisions = discovery.decisions
    if decisions:
        told.append(f"{len(decisions):,} decisions of a person were obeyed.")
    return told


def _versions() -> list[list[str]]:
    device = jax.devices()[0]
    return [
        ["eagc_jax", eagc_jax.__version__],
        ["python", platform.python_version()],
        *([name, importlib.metadata.version(name)] for name in _PACKAGES),
        ["device", f"{device.platform}: {device.device_kind}"],
    ]


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", printable(str(value))[:_LETTERS]


def _number(value: SupportsFloat) -> float | None:
    """Four digits that count; None for what is no number."""
    number = float(value)
    return float(f"{number:.4g}") if math.isfinite(number) else None
