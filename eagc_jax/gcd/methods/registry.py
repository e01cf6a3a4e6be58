"""Methods by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

AnyMethod = TypeVar("AnyMethod", bound=type)

# By the name that flags and files take.
METHODS: dict[str, type] = {}


def register(kind: AnyMethod) -> AnyMethod:
    """A decorator that makes a method known by its `name`.

    A file in this package is found by itself; one elsewhere has to be imported.

    Args:
      kind: a frozen dataclass whose fields all have defaults; see `Method`.

    Raises:
      ValueError: another class has the name.

    Examples:
      >>> import dataclasses
      >>> @register
      ... @dataclasses.dataclass(frozen=True)
      ... class Guess:
      ...     name = "guess"
      >>> METHODS.pop("guess").__name__
      'Guess'
    """
    name = kind().name
    if METHODS.setdefault(name, kind) is not kind:
        raise ValueError(f"name must not be taken, got {name!r}, which is")
    return kind


def discover(package: str, path: Iterable[str]) -> None:
    """Imports a package's files, so that adding one is all it takes."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
