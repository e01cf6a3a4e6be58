"""Signatures that name the options which factories pass on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

Factory = TypeVar("Factory", bound=Callable[..., object])


def shows_options_of(
    maker: Callable[..., object], **defaults: object
) -> Callable[[Factory], Factory]:
    """A decorator: ``**options`` in a factory's signature become those of ``maker``.

    For ``help``, and for ``optax.inject_hyperparams``, which only injects what a
    signature names.

    Args:
      maker: what the factory passes its options to.
      **defaults: where the factory's differ from the maker's.
    """
    passed_on = [
        option.replace(default=defaults.get(option.name, option.default))
        for option in inspect.signature(maker).parameters.values()
        if option.kind is option.KEYWORD_ONLY
    ]

    def decorate(factory: Factory) -> Factory:
        signature = inspect.signature(factory)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        others = [p for p in passed_on if p.name not in signature.parameters]
        shown = signature.replace(parameters=[*own, *others])
        factory.__signature__ = shown  # pyright: ignore[reportFunctionMemberAccess]
        return factory

    return decorate
