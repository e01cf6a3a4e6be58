"""Hypothesis, imported where it is used, and the search for a smallest counterexample."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def load(name: str = "hypothesis") -> ModuleType:
    """The module; ImportError names the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "eagc_jax.testing needs hypothesis, which an extra brings: "
            "pip install 'eagc-jax[testing]'"
        ) from error


def smallest(
    strategy: SearchStrategy[T], breaks: Callable[[T], bool], examples: int
) -> T | None:
    """The simplest drawn input that ``breaks``, or None; the same in every run."""
    if examples < 1:
        return None
    hypothesis = load()
    settings = hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        return hypothesis.find(strategy, breaks, settings=settings)
    except hypothesis.errors.NoSuchExample:
        return None
