"""Backbones by name."""

from __future__ import annotations

import importlib
import os
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, TypeVar, get_args

from eagc_jax.gcd.backbones.base import Backbone, ComputeDtype
from eagc_jax.gcd.sources.records import Kind


class Loader(Protocol):
    """Makes a backbone, with its weights from a file or from where it knows."""

    def __call__(
        self,
        weights: pathlib.Path | None,
        *,
        compute_dtype: ComputeDtype,
        image_size: int | None,
        checkpoint: bool,
    ) -> Backbone:
        """See `load` for the arguments."""
        ...


AnyLoader = TypeVar("AnyLoader", bound=Loader)

_LOADERS: dict[str, Loader] = {}
_DEFAULTS: dict[Kind, str] = {"embedding": "embeddings"}


def register(
    name: str, *, default_for: Kind | None = None
) -> Callable[[AnyLoader], AnyLoader]:
    """Makes a loader known to `load` by a name; a decorator.

    A file in this package is found by itself; one elsewhere has to be imported.

    Args:
      name: for `load` and `--backbone`.
      default_for: the kind of items that it is the default for.

    Examples:
      >>> @register("mean-colour")
      ... def load_mean_colour(weights, *, compute_dtype, image_size, checkpoint):
      ...     return callable_backbone(
      ...         lambda images: [image.mean((0, 1)) for image in images], "image", 3
      ...     )
      >>> from eagc_jax.gcd.backbones import callable_backbone
      >>> load("mean-colour").width
      3
    """

    def decorate(loader: AnyLoader) -> AnyLoader:
        _LOADERS[name] = loader
        if default_for is not None:
            _DEFAULTS[default_for] = name
        return loader

    return decorate


def load(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    compute_dtype: ComputeDtype = "float32",
    image_size: int | None = None,
    checkpoint: bool = False,
) -> Backbone:
    """A backbone by name, with its weights.

    Args:
      name: as `efficientnet-lite0` for photos, `minilm` for sentences, or `vit`, whose
        weights are always a file; see `names`.
      weights: of a file, .pth, .safetensors or .npz; None for those of an installed
        package, where there is one.
      compute_dtype: of the matrix products; parameters and features stay float32.
      image_size: height and width that pictures are brought to; None for the usual.
      checkpoint: whether blocks are computed again in the backward pass, which takes
        less memory and a third more time.

    Returns:
      The backbone, see `Backbone`.

    Raises:
      ValueError: an unknown name or dtype, or weights that don't fit.
      FileNotFoundError: there is no such file of weights.
      ModuleNotFoundError: a package is missing; the message says which line to run.
    """
    _discover()
    if name not in _LOADERS:
        raise ValueError(f"backbone must be one of {', '.join(names())}; got {name!r}")
    if compute_dtype not in get_args(ComputeDtype):
        raise ValueError(
            f"compute_dtype must be one of {', '.join(get_args(ComputeDtype))}, "
            f"got {compute_dtype!r}"
        )
    return _LOADERS[name](
        None if weights is None else pathlib.Path(weights),
        compute_dtype=compute_dtype,
        image_size=image_size,
        checkpoint=checkpoint,
    )


def names() -> tuple[str, ...]:
    """All that `load` knows.

    Examples:
      >>> "minilm" in names()
      True
    """
    _discover()
    return tuple(sorted(_LOADERS))


def default_backbone(kind: Kind) -> str:
    """The name of the default backbone for a kind of items.

    Examples:
      >>> default_backbone("image"), default_backbone("text")
      ('efficientnet-lite0', 'minilm')
    """
    _discover()
    if kind not in _DEFAULTS:
        raise ValueError(f"kind must be one of {', '.join(_DEFAULTS)}; got {kind!r}")
    return _DEFAULTS[kind]


def _discover() -> None:
    """Imports this package's files, so that adding one is all it takes."""
    from eagc_jax.gcd import backbones

    for module in pkgutil.iter_modules(backbones.__path__):
        importlib.import_module(f"{backbones.__name__}.{module.name}")
