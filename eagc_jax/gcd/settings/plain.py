"""Settings as plain values and back: one description for file, page, call and command."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

import cattrs

from eagc_jax._files import JsonObject
from eagc_jax.gcd.methods import METHODS, Method

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class _Method(Method, DataclassInstance, Protocol):
        """A method, which is a dataclass."""


T = TypeVar("T")


@overload
def to_plain(settings: None) -> None: ...
@overload
def to_plain(settings: DataclassInstance) -> JsonObject: ...
def to_plain(settings: DataclassInstance | None) -> JsonObject | None:
    """Dataclasses as dicts of numbers, strings, lists and None, for JSON or TOML.

    Examples:
      >>> from eagc_jax.gcd.training.settings import WarmStart
      >>> to_plain(WarmStart())
      {'epochs': 10, 'prototypes': True, 'restarts': 3}
    """
    return _CONVERTER.unstructure(settings)


def from_plain(kind: type[T], values: object) -> T:
    """Settings of a kind from what `to_plain` made; missing entries are the defaults.

    Raises:
      ValueError: an entry that the settings don't have, or of another type, or out of its
        range; the message names every one.

    Examples:
      >>> from eagc_jax.gcd.training.settings import WarmStart
      >>> from_plain(WarmStart, {"epochs": 3})
      WarmStart(epochs=3, prototypes=True, restarts=3)
      >>> from_plain(WarmStart, {"epoch": 3})
      Traceback (most recent call last):
      ...
      ValueError: settings: extra fields found (epoch) @ $
    """
    try:
        return _CONVERTER.structure(values, kind)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        found = cattrs.transform_error(error, format_exception=_in_words)
        raise ValueError(f"settings: {'; '.join(found)}") from error


def _in_words(error: BaseException, kind: type | None) -> str:
    # The settings' own messages name the field and what it must be.
    if type(error) is ValueError:
        return str(error)
    return cattrs.v.format_exception(error, kind)


def _method_to_plain(method: _Method) -> JsonObject:
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return {"name": method.name, **fields}


def _method_from_plain(values: JsonObject, _: type) -> Method:
    rest = dict(values)
    name = rest.pop("name", None)
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}")
    return _CONVERTER.structure(rest, METHODS[name])


def _converter() -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True)
    made.register_structure_hook(Method, _method_from_plain)
    made.register_unstructure_hook_func(
        lambda kind: kind in METHODS.values(), _method_to_plain
    )
    made.register_unstructure_hook(Method, _method_to_plain)
    return made


_CONVERTER = _converter()
