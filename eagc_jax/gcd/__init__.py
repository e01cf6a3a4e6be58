"""Generalized category discovery: known classes recognised, novel ones found.

`discover` does all of it, from data to categories; `reopen` reads the folder that it
wrote; `CategoryDiscovery` is an estimator with scikit-learn's interface, for a matrix of
features.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eagc_jax.gcd.estimator import CategoryDiscovery
    from eagc_jax.gcd.pipeline import discover
    from eagc_jax.gcd.runs.discovery import DiscoverSettings, Discovery, read_settings
    from eagc_jax.gcd.runs.reopening import reopen
    from eagc_jax.gcd.settings.choices import (
        BackboneSettings,
        ClusteringSettings,
        SourceSettings,
    )

# Loaded when they are used: the command line answers `--help` without JAX.
_PLACES = {
    "CategoryDiscovery": "estimator",
    "discover": "pipeline",
    "BackboneSettings": "settings.choices",
    "ClusteringSettings": "settings.choices",
    "SourceSettings": "settings.choices",
    "DiscoverSettings": "runs.discovery",
    "Discovery": "runs.discovery",
    "read_settings": "runs.discovery",
    "reopen": "runs.reopening",
}

__all__ = [
    "BackboneSettings",
    "CategoryDiscovery",
    "ClusteringSettings",
    "DiscoverSettings",
    "Discovery",
    "SourceSettings",
    "discover",
    "read_settings",
    "reopen",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    return getattr(place, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
