"""Python pickles of arrays, read without running what a pickle may ask to be run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from eagc_jax._files import JsonObject
from eagc_jax.gcd.sources.strings import shown


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How old protocols write bytes: only that, not any codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not admitted")
    return text.encode("latin1")


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An empty array, which the pickle then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("only plain arrays are admitted")
    return np.ndarray(shape, dtype)


def _from_buffer(
    buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


_ADMITTED: Mapping[tuple[str, str], Callable[..., object]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Callable[..., object]:
        found = _ADMITTED.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which is not admitted"
            )
        return found


def read_pickle(path: str | os.PathLike[str]) -> JsonObject:
    """A dict of arrays, lists, text and numbers.

    Nothing else is admitted: a pickle that names any other function or class is
    refused before that is looked up.

    Args:
      path: of the file, written by Python 2 or 3.

    Returns:
      The dict, whose keys are text.

    Raises:
      ValueError: the file is no such pickle, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            found = _Unpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise ValueError(
            f"{shown(path)} can't be read as a pickle of arrays: {error}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{shown(path)} should hold a dict, found {type(found)}")
    return {_text(key): value for key, value in found.items()}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def texts(values: Iterable[object]) -> tuple[str, ...]:
    """Names, which Python 2 wrote as bytes."""
    return tuple(map(_text, values))
