"""Aggregators by name, for flags and for settings in a file."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eagc_jax import aggregators, eagc, elastic_projection, sum_objectives
from eagc_jax._files import JsonObject
from eagc_jax.objectives import expand_to

_ELASTIC = "elastic_projection"


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """An aggregator by its name and options: plain values, so that JSON can hold it.

    Args:
      name: "sum" (:func:`eagc_jax.sum_objectives`), "eagc" (:func:`eagc_jax.eagc`),
        "elastic_projection" (:func:`eagc_jax.elastic_projection`, then the sum), or a
        factory of :mod:`eagc_jax.aggregators`; see :func:`aggregator_names`.
      options: keyword arguments of the factory, without its loss weights. Of a factory
        in :mod:`eagc_jax.aggregators`, `rescale` is "sum" unless it is given: the
        learning rate can then stay when the method changes.

    Raises:
      ValueError: there is no such aggregator.

    Examples:
      >>> Aggregation("upgrad", {"granularity": "tensor"}).name
      'upgrad'
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in aggregator_names():
            raise ValueError(
                f"name must be one of {', '.join(aggregator_names())}; got {self.name!r}"
            )

    def build(self, weights: tuple[float, ...]) -> optax.GradientTransformation:
        """The transformation from leaves `(K, *shape)` to `(*shape)`.

        Equal settings give the same object, so that runs share a compilation.

        Args:
          weights: K loss weights.

        Raises:
          TypeError: the factory has no such option.
        """
        options = tuple((k, _hashable(v)) for k, v in sorted(self.options.items()))
        return _build(self.name, options, tuple(weights))


def aggregator_names() -> tuple[str, ...]:
    """All that `Aggregation` knows: "sum", "eagc", then others in name order."""
    return ("sum", "eagc", *sorted([*_factories(), _ELASTIC]))


def weigh_losses(
    weights: tuple[float, ...], aggregator: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""An aggregator of weighted losses: it is given :math:`w_k g_k` and `w_k L_k`.

    Args:
      weights: K loss weights.
      aggregator: from leaves `(K, *shape)` to `(*shape)`; of unweighted objectives by
        itself. Losses reach it as the keyword `value`, if the caller passes them.

    Returns:
      The transformation; its state is the aggregator's.

    Examples:
      >>> tx = weigh_losses((1.0, 3.0), sum_objectives())
      >>> params = {"w": jnp.zeros(2)}
      >>> grads = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> tx.update(grads, tx.init(params), params)[0]["w"].tolist()
      [1.0, 3.0]
    """
    aggregator = optax.with_extra_args_support(aggregator)
    scale = jnp.array(weights, jnp.float32)

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        updates = jax.tree.map(
            lambda leaf: (leaf * expand_to(scale, leaf.ndim)).astype(leaf.dtype),
            updates,
        )
        if value is not None:
            extra_args["value"] = jnp.asarray(value) * scale
        return aggregator.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(aggregator.init, update_fn)


@functools.lru_cache(maxsize=64)
def _build(
    name: str, options: tuple[tuple[str, Hashable], ...], weights: tuple[float, ...]
) -> optax.GradientTransformation:
    arguments: JsonObject = dict(options)
    if name == "sum":
        return sum_objectives(weights, **arguments)
    if name == "eagc":
        return eagc(len(weights), weights=weights, **arguments)
    if name == _ELASTIC:
        projection = elastic_projection(len(weights), **arguments)
        return optax.chain(projection, sum_objectives(weights))
    aggregator = _factories()[name](len(weights), **({"rescale": "sum"} | arguments))
    return weigh_losses(weights, aggregator)


@functools.cache
def _factories() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The public factories of K gradients at once, with defaults for all but K."""
    found = {}
    for name in aggregators.__all__:
        member = getattr(aggregators, name)
        if not inspect.isfunction(member):
            continue
        first, *others = inspect.signature(member).parameters.values()
        needed = [p for p in others if p.default is p.empty and p.kind != p.VAR_KEYWORD]
        sized = any(p.name == "rescale" or p.kind == p.VAR_KEYWORD for p in others)
        if first.name == "num_objectives" and sized and not needed:
            found[name] = member
    return found


def _hashable(value: object) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
