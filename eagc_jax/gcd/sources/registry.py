"""Data sets by name: each is one file in `named`, registered by a decorator."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

from eagc_jax.gcd.sources.records import Records

Benchmark = Callable[..., Records]

_BENCHMARKS: dict[str, Benchmark] = {}


def register(name: str) -> Callable[[Benchmark], Benchmark]:
    """A decorator that makes a function the loader of a named data set.

    The function takes the data set's root folder (a path, or None for the usual places)
    and further options by keyword, and returns `Records`.

    Args:
      name: lower case, with dashes; what `load` and the command line know it by.

    Returns:
      The decorator, which returns the function as it is.

    Raises:
      ValueError: the name is taken.

    Examples:
      >>> @register("two-points")
      ... def two_points(root=None):
      ...     import numpy as np
      ...     from eagc_jax.gcd.sources import posing, records
      ...     items = records.ArrayItems(np.eye(2, dtype=np.float32))
      ...     return posing.fully_labeled(
      ...         "two-points", "embedding", items, ("0", "1"), [0, 1], ("a", "b")
      ...     )
      >>> len(load("two-points"))
      2
      >>> unregister("two-points")
    """

    def decorate(function: Benchmark) -> Benchmark:
        if name in _BENCHMARKS:
            raise ValueError(f"name must not be taken, got {name!r}, which is")
        _BENCHMARKS[name] = function
        return function

    return decorate


def unregister(name: str) -> None:
    """Takes a name off the list."""
    del _BENCHMARKS[name]


def benchmarks() -> list[str]:
    """Names of all registered data sets, in alphabetical order."""
    return sorted(_BENCHMARKS)


def load(
    name: str, root: str | os.PathLike[str] | None = None, **options: object
) -> Records:
    """A named data set, posed as the papers pose it.

    Args:
      name: one of `benchmarks()`.
      root: the folder or file that holds it. By default it is looked for in the folder
        that the environment variable EAGC_DATA names, and in `data`.
      **options: of the data set's own loader.

    Returns:
      Its training items; the same ones are labeled in every run.

    Raises:
      ValueError: there is no data set of that name, or it has no such option.
      FileNotFoundError: the data is not there; the message says how to get it.

    Examples:
      >>> records = load("digits")
      >>> records.class_names[:5], int(records.labeled_mask.sum())
      (('0', '1', '2', '3', '4'), 450)
    """
    if name not in _BENCHMARKS:
        raise ValueError(f"name must be one of {', '.join(benchmarks())}; got {name!r}")
    loader = _BENCHMARKS[name]
    allowed = [p for p in inspect.signature(loader).parameters if p != "root"]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{name} has no option {option!r}; it has "
                f"{', '.join(allowed) or 'none'}"
            )
    return loader(root, **options)
