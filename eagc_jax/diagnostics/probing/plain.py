"""A probe's report as values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eagc_jax._files import JsonObject

if TYPE_CHECKING:
    from eagc_jax.diagnostics.probing.report import ProbeReport


def of_report(report: ProbeReport) -> JsonObject:
    """Every array, what follows from them, and what was said."""
    fields = report._asdict()
    applied = fields.pop("applied")
    whole, low, high = report.noise_free_cosines
    derived = {
        "finite": report.finite,
        "increased": report.increased,
        "norm_ratio": report.norm_ratio,
        "signal": report.signal,
        "work": report.work,
        "conflict_by_layer": report.conflict_by_layer,
        "persistence": report.persistence,
        "noise_free_cosines": {"estimate": whole, "low": low, "high": high},
        "advice": report.advice,
        "verdict": report.verdict._asdict(),
        "applied": None,
    }
    if applied is not None:
        names = ("raised", "by_memory", "cosines", "conflict_by_layer")
        more = {name: getattr(applied, name) for name in names}
        derived["applied"] = applied._asdict() | more
    return {name: _plain(value) for name, value in (fields | derived).items()}


def _plain(value: object) -> object:
    """Lists for arrays and tuples, None for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
