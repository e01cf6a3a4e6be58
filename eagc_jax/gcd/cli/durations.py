"""Durations as people type them."""

from __future__ import annotations

import re

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(r"(?:\d+(?:\.\d*)?[hms])+")
_PART = re.compile(r"(\d+(?:\.\d*)?)([hms])")


def seconds_of(text: str) -> float:
    """Seconds of a duration such as 90s, 5m or 1h30m.

    Args:
      text: numbers, each with its unit: h, m or s. A number alone is seconds.

    Returns:
      Seconds, more than 0.

    Raises:
      ValueError: it is no duration, or none at all.

    Examples:
      >>> seconds_of("1h30m"), seconds_of("90s"), seconds_of("2.5")
      (5400.0, 90.0, 2.5)
    """
    given = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d*)?", given):
        given += "s"
    if not _PARTS.fullmatch(given):
        raise ValueError(f"a time should be like 90s, 5m or 1h30m, got {text!r}")
    found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(given))
    if not found:
        raise ValueError(f"a time should be more than 0, got {text!r}")
    return found
