"""Settings of training, changed one by one, as `NAME=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from eagc_jax._files import JsonObject
from eagc_jax.gcd.methods import METHODS
from eagc_jax.gcd.settings.plain import from_plain, to_plain
from eagc_jax.gcd.settings.running import RunSettings
from eagc_jax.gcd.sources.strings import shown

# A name alone stands for what has this name and its defaults.
_NAMED = ("method", "aggregator")


def changed(settings: RunSettings, changes: Sequence[str]) -> RunSettings:
    """The settings with some of them changed.

    Args:
      settings: to begin with.
      changes: `NAME=VALUE` each, in this order. A name is as in a run's settings.json
        below "run", with dots: `training.epochs`, `method.entropy_weight`,
        `aggregator.options.granularity`. A value is JSON, or else text. `method=NAME` and
        `aggregator=NAME` are the one of that name with its defaults;
        `aggregator=null` is the weighted sum; what is null by default, as `coordination`
        and `training.warm_start`, comes to be with its defaults by `NAME={}` or by
        changing an entry of it.

    Returns:
      The new settings.

    Raises:
      ValueError: a change is not `NAME=VALUE`, there is no such setting, or it can't
        have that value; the message names it.

    Examples:
      >>> found = changed(RunSettings(), ["training.epochs=3", "aggregator=upgrad"])
      >>> found.training.epochs, found.aggregator.name
      (3, 'upgrad')
      >>> changed(RunSettings(), ["coordination.eep_weight=0.2"]).coordination.aga_weight
      0.7
    """
    values = to_plain(settings)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name.strip():
            raise ValueError(
                f"a setting is changed by NAME=VALUE, got {shown(repr(change))}"
            )
        _set(values, name.strip().split("."), _value(text))
    return _checked(from_plain(RunSettings, values))


def with_epochs(settings: RunSettings, epochs: int) -> RunSettings:
    """As many epochs, evaluated after the last; schedules in epochs are stretched."""
    before = settings.training.epochs
    changes = [f"training.epochs={epochs}", f"training.evaluate_every={epochs}"]
    for name in ("teacher_warmup_epochs", "rampup_epochs"):
        if hasattr(settings.method, name):
            number = max(round(getattr(settings.method, name) * epochs / before), 1)
            changes.append(f"method.{name}={number}")
    return changed(settings, changes)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _set(values: JsonObject, path: list[str], value: object) -> None:
    if path[0] in _NAMED and len(path) == 1 and isinstance(value, str):
        value = {"name": value}
    inner = values
    for name in path[:-1]:
        if not isinstance(inner.get(name), dict):
            if inner.get(name) is not None:
                raise ValueError(f"there is no setting {'.'.join(path)}")
            inner[name] = {}
        inner = inner[name]
    inner[path[-1]] = value


def _checked(settings: RunSettings) -> RunSettings:
    """Also that the aggregator has such options, before any work is done."""
    if settings.aggregator is not None:
        try:
            settings.aggregator.build(settings.method.objective_weights)
        except TypeError as error:
            raise ValueError(
                f"aggregator {settings.aggregator.name}: {error}"
            ) from error
    if settings.method.name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}")
    return settings
