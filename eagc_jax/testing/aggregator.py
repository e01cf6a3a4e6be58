"""Assertions for aggregators and for weightings: the properties that they claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NoReturn

import jax
import numpy as np
import optax

from eagc_jax._checks import check_count, check_num_objectives
from eagc_jax.testing._aggregation import (
    Aggregation,
    Factory,
    Weighting,
    of_transformation,
    of_weighting,
)
from eagc_jax.testing._drawing import drawn, literal, sampled
from eagc_jax.testing._search import smallest
from eagc_jax.testing.failures import PropertyError, Violation
from eagc_jax.testing.properties import PROPERTIES, AggregatorProperty, Kind

# What every aggregator should have; the others are claims that methods differ in.
DEFAULT: tuple[AggregatorProperty, ...] = (
    "zero_at_zero",
    "finite_on_hostile_input",
    "propagates_nonfinite",
)
SHRINKING = 300  # inputs drawn to find a simpler one than a seeded one that breaks it


def assert_aggregator(
    transformation: optax.GradientTransformation | Factory,
    num_objectives: int,
    properties: Collection[AggregatorProperty] = DEFAULT,
    *,
    extra_args: Mapping[str, jax.typing.ArrayLike] | None = None,
    tolerances: Mapping[AggregatorProperty, float] | None = None,
    batch: int = 16,
    max_examples: int = 25,
) -> None:
    r"""Asserts that an aggregator has the properties that are named.

    An aggregator takes updates with leaves ``(K, *shape)`` and returns leaves
    ``(*shape)``. Its first update, from a fresh state, is looked at on seeded matrices
    of known structure and on ones that hypothesis draws and shrinks, of float32 and in
    a tree of two leaves. What is random in it must come from its state or a seed.
    :mod:`eagc_jax.testing.properties` defines every property, and
    :data:`eagc_jax.testing.CLAIMS` names those of this library's methods.

    Args:
      transformation: an Optax transformation; or a function from K to one, as the
        factories in :mod:`eagc_jax.aggregators` are, which "sum_for_one_objective"
        needs unless K is 1.
      num_objectives: K, a Python int.
      properties: names; without them those that every aggregator should have.
      extra_args: keyword arguments for ``update``, e.g. ``{"value": losses}``.
      tolerances: by a property's name, instead of its own.
      batch: seeded matrices from each sampler.
      max_examples: matrices that hypothesis draws, of each kind that is needed.

    Raises:
      PropertyError: (an AssertionError) a property does not hold. It says which, on
        which input, what was found, and what would have been accepted.
      ValueError: an unknown name, or a transformation that keeps the objective axis.
      ImportError: hypothesis isn't installed: ``pip install 'eagc-jax[testing]'``.

    Examples:
      >>> from eagc_jax import aggregators, testing
      >>> testing.assert_aggregator(aggregators.upgrad, 2, ["non_conflicting"])
      >>> testing.assert_aggregator(aggregators.mean, 2, ["follows_agreement"])

      What does not hold is shown on a small input::

        non_conflicting does not hold.
          given:    np.array([[1, 0, 0, ...], [-2, 0, 0, ...]], np.float32)
          found:    minus the cosine with objective 0 is 1
          accepted: at most 1e-06
    """
    number = check_num_objectives(num_objectives)
    aggregate = of_transformation(transformation, number, dict(extra_args or {}))
    _assert_properties(aggregate, properties, tolerances or {}, batch, max_examples)


def assert_weighting(
    weighting: Weighting,
    num_objectives: int,
    properties: Collection[AggregatorProperty] = DEFAULT,
    *,
    tolerances: Mapping[AggregatorProperty, float] | None = None,
    batch: int = 16,
    max_examples: int = 25,
) -> None:
    r"""Asserts that a weighting has the properties that are named.

    A weighting maps the ``(K, K)`` Gram matrix, float32, to ``(K,)`` weights; the
    direction that they give is formed in float64, so that what is seen is the weights'
    own error.

    Args:
      weighting: a function that can be compiled, with nothing random left in it.
      num_objectives: K, a Python int.
      properties: names, as in :func:`assert_aggregator`.
      tolerances: by a property's name, instead of its own.
      batch: seeded matrices from each sampler.
      max_examples: matrices that hypothesis draws, of each kind that is needed.

    Raises:
      PropertyError: (an AssertionError) a property does not hold.
      ValueError: an unknown name.
      ImportError: hypothesis isn't installed: ``pip install 'eagc-jax[testing]'``.

    Examples:
      >>> from eagc_jax import testing, weightings
      >>> testing.assert_weighting(weightings.mgda, 3, ["nonnegative_weights"])
    """
    number = check_num_objectives(num_objectives)
    aggregate = of_weighting(weighting, number)
    _assert_properties(aggregate, properties, tolerances or {}, batch, max_examples)


def _assert_properties(
    aggregate: Aggregation,
    properties: Collection[AggregatorProperty],
    tolerances: Mapping[AggregatorProperty, float],
    batch: int,
    max_examples: int,
) -> None:
    check_count("batch", batch, 0)
    check_count("max_examples", max_examples, 0)
    _check_names(properties)
    _check_names(tolerances)
    by_kind: dict[Kind, list[AggregatorProperty]] = {}
    for name in PROPERTIES:  # in one order, whatever the caller's
        if name in properties:
            by_kind.setdefault(PROPERTIES[name].kind, []).append(name)
    for kind, names in by_kind.items():
        trial = _Trial(_aggregation_for(kind, aggregate), tolerances)
        trial.of_drawn(kind, names, max_examples)
        trial.of_sampled(kind, names, batch)


def _check_names(names: Collection[str]) -> None:
    if isinstance(names, str):
        raise ValueError(f"properties must be a collection of names, got {names!r}.")
    unknown = [name for name in names if name not in PROPERTIES]
    if unknown:
        raise ValueError(f"no property is called {unknown}: choose of {[*PROPERTIES]}.")


def _aggregation_for(kind: Kind, aggregate: Aggregation) -> Aggregation:
    """Itself, or the one of K = 1."""
    if kind != "one" or aggregate.number == 1:
        return aggregate
    if aggregate.of_number is None:
        raise ValueError(
            "sum_for_one_objective needs the transformation for K = 1: give the factory "
            f"instead of what it returns for {aggregate.number}, e.g. "
            "lambda number: my_aggregator(number, ...)."
        )
    return aggregate.of_number(1)


class _Trial:
    """Properties of one aggregation, tried on matrices."""

    def __init__(
        self,
        aggregate: Aggregation,
        tolerances: Mapping[AggregatorProperty, float],
    ):
        self.aggregate, self.tolerances = aggregate, tolerances

    def check(self, name: AggregatorProperty, matrix: np.ndarray) -> Violation | None:
        found = PROPERTIES[name]
        tolerance = self.tolerances.get(name, found.tolerance)
        with np.errstate(all="ignore"):
            return found.check(self.aggregate, matrix, tolerance)

    def shrunk(
        self, kind: Kind, names: list[AggregatorProperty], examples: int
    ) -> np.ndarray | None:
        """The simplest matrix found that breaks one of the properties."""
        return smallest(
            drawn(kind, self.aggregate.number, self.aggregate.width),
            lambda matrix: any(self.check(name, matrix) for name in names),
            examples,
        )

    def of_drawn(
        self, kind: Kind, names: list[AggregatorProperty], examples: int
    ) -> None:
        matrix = self.shrunk(kind, names, examples)
        if matrix is not None:
            self.fail(names, matrix, literal(matrix))

    def of_sampled(
        self, kind: Kind, names: list[AggregatorProperty], batch: int
    ) -> None:
        size = self.aggregate.number, self.aggregate.width
        for matrix, line in sampled(kind, batch, *size):
            for name in names:
                if self.check(name, matrix):
                    simpler = self.shrunk(kind, [name], SHRINKING)
                    if simpler is not None:
                        self.fail([name], simpler, literal(simpler))
                    self.fail([name], matrix, line)

    def fail(
        self, names: list[AggregatorProperty], matrix: np.ndarray, given: str
    ) -> NoReturn:
        broken = [(name, self.check(name, matrix)) for name in names]
        name, violation = next((n, v) for n, v in broken if v is not None)
        raise PropertyError(name, given, violation)
