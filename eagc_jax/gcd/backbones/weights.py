"""Weights: where they are found, what is in a file, and a module filled with them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import numpy as np
from flax import nnx, traverse_util

from eagc_jax.gcd.backbones.pth import read_pth

Tensors = Mapping[str, np.ndarray]

_MOST_TIMES_LARGER = 200  # than its file may the content of a compressed one be
_SMALLEST_BOUND = 2**24


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of our parameters, of one or several tensors in a file.

    Args:
      target: name of the parameter, as `blocks.0.attn.qkv.kernel`.
      sources: names of the tensors.
      make: from those to the parameter.
    """

    target: str
    sources: tuple[str, ...]
    make: Callable[..., np.ndarray] = np.asarray


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The named arrays of a .pth, .pt, .safetensors or .npz file.

    No code that a file may hold is run, and none makes more of itself in memory than a
    bound that follows from its size.

    Args:
      path: of the file; its ending decides how it is read.

    Returns:
      The arrays by name, as they are stored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another ending, or the file is damaged.
    """
    path = pathlib.Path(path)
    readers = {
        ".pth": read_pth,
        ".pt": read_pth,
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
    }
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"weights must be a file that ends in {', '.join(readers)}; got {path}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    return readers[path.suffix.lower()](path)


def packaged(package: str, inside: str, hint: str) -> pathlib.Path:
    """A file of an installed package, which is not imported.

    Raises:
      ModuleNotFoundError: the package is missing; the message says `hint`.
      FileNotFoundError: the package has no such file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the weights are in the package {package}, which is not installed: {hint}; "
            "or give a file of your own, with --weights FILE or weights=FILE"
        )
    path = pathlib.Path(next(iter(found.submodule_search_locations))) / inside
    if not path.exists():
        raise FileNotFoundError(f"{package} is installed, but has no {inside}: {hint}")
    return path


def fill(
    module: nnx.Module,
    tensors: Tensors,
    rules: Sequence[Rule],
    *,
    source: object,
    ignored: Collection[str] = (),
) -> None:
    """Gives a module the weights of a file.

    Args:
      module: of real or abstract parameters (`nnx.eval_shape`), float32 afterwards.
      tensors: of the file.
      rules: one for each parameter.
      source: the file, for the message.
      ignored: names of tensors that may be there and are not used.

    Raises:
      ValueError: tensors are missing, unknown or of another shape; the message lists
        every one of them.
    """
    expected = parameters(module)
    wanted = {name for rule in rules for name in rule.sources}
    problems = [f"missing {name}" for name in sorted(wanted - tensors.keys())]
    unknown = tensors.keys() - wanted - set(ignored)
    problems += [f"unknown {name}" for name in sorted(unknown)]
    made = {}
    for rule in rules:
        if all(name in tensors for name in rule.sources):
            made[rule.target] = _made(rule, tensors)
            problems += _misfit(rule, made[rule.target], tensors, expected)
    if problems:
        raise ValueError(f"the weights in {source} do not fit: " + "; ".join(problems))
    put(module, made)


def put(module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets parameters by name, as float32."""
    # A copy that nobody writes to; `jnp.asarray` would be a compilation for each shape.
    values = {
        tuple(
            int(part) if part.isdigit() else part for part in name.split(".")
        ): jax.device_put(np.array(value, np.float32))
        for name, value in arrays.items()
    }
    nnx.update(module, nnx.State(traverse_util.unflatten_dict(values)))


def parameters(module: nnx.Module) -> dict[str, jax.Array]:
    """A module's parameters by name."""
    nested = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    # What it returns has no annotation; leaves are arrays.
    flat: dict[tuple[str | int, ...], jax.Array]
    flat = traverse_util.flatten_dict(nested)  # type: ignore[assignment]
    return {".".join(map(str, path)): value for path, value in flat.items()}


def fingerprint(module: nnx.Module, *described: object) -> str:
    """Of a module's parameters and of what else decides its feature, in hexadecimal."""
    found = hashlib.blake2b(repr(described).encode(), digest_size=16)
    for name, value in sorted(parameters(module).items()):
        array = np.ascontiguousarray(value)
        found.update(f"{name} {array.shape} {array.dtype}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def digest(content: bytes) -> str:
    """16 bytes in hexadecimal that are the same for the same content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _made(rule: Rule, tensors: Tensors) -> np.ndarray | None:
    arrays = [np.asarray(tensors[name]) for name in rule.sources]
    try:
        return rule.make(*arrays)
    except (ValueError, IndexError):  # a shape that can't be what it should
        return None


def _misfit(
    rule: Rule,
    made: np.ndarray | None,
    tensors: Tensors,
    expected: Mapping[str, jax.Array],
) -> list[str]:
    wanted = expected[rule.target].shape
    if made is not None and made.shape == wanted:
        return []
    shapes = " and ".join(
        f"{name} of shape {np.shape(tensors[name])}" for name in rule.sources
    )
    return [f"{shapes} makes no {rule.target} of shape {wanted}"]


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {error}"
        ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = sum(info.file_size for info in archive.infolist())
        if content > max(_SMALLEST_BOUND, _MOST_TIMES_LARGER * path.stat().st_size):
            raise ValueError(f"its content is said to have {content} bytes")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (zipfile.BadZipFile, ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error
