"""Files of weights to another kind of file, and proof that nothing was lost."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from eagc_jax import _files
from eagc_jax.gcd.backbones import registry
from eagc_jax.gcd.backbones.base import Backbone
from eagc_jax.gcd.backbones.weights import read_tensors
from eagc_jax.gcd.sources.records import Item
from eagc_jax.gcd.sources.strings import shown
from eagc_jax.typing import Params, PyTree

ENDINGS = (".safetensors", ".npz")
_TOKENIZER = "tokenizer.json"  # of texts; it lies beside the weights
_LEAST_COSINE = 0.999  # of features before and after rounding to float16
_SENTENCES = ("My card has not arrived yet.", "Ünïcode, and\ta tab.")


class Fit(NamedTuple):
    """A backbone that a file's weights fit."""

    name: str
    backbone: Backbone


class Converted(NamedTuple):
    """A file that was written, and read again."""

    path: pathlib.Path
    backbone: str  # its name
    tensors: int
    bytes: int
    # Of features of fixed items, before and after: 1, and exactly the same numbers,
    # unless they were rounded to float16.
    cosine: float
    beside: tuple[pathlib.Path, ...]  # what else was written


def fitting(path: str | os.PathLike[str]) -> list[Fit]:
    """The backbones that load a file's weights, each loaded.

    No code that the file may hold is run.

    Args:
      path: of a .pth, .pt, .safetensors or .npz file.

    Returns:
      All that fit, in alphabetical order; often none or one.

    Raises:
      ValueError, FileNotFoundError: the file can't be read.
    """
    read_tensors(path)  # says what is wrong with the file itself
    found = []
    for name in registry.names():
        if not _reads_weights(name):
            continue
        try:
            found.append(Fit(name, registry.load(name, path)))
        except (ValueError, OSError, ModuleNotFoundError):
            continue
    return found


def convert(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, half: bool = False
) -> Converted:
    """Writes weights as .safetensors or .npz, and checks what was written.

    Tensors keep their names. The new file is loaded through the same door as any other,
    and must give exactly the same features of fixed items; only then does it get its
    name. Where a tokenizer lies beside the weights, it is copied beside the new ones.

    Args:
      path: of the .pth, .pt, .safetensors or .npz file.
      out: of the file to write; must not be there.
      half: round numbers of more than 16 bits to float16, for half the size.

    Returns:
      What was written.

    Raises:
      ValueError: the weights fit no backbone, the ending is another, or float16 can't
        hold them.
      FileExistsError: `out` is there already.
      OSError: it can't be written.
    """
    source, target = pathlib.Path(path), pathlib.Path(out)
    _check_target(target)
    fits = fitting(source)
    if not fits:
        raise ValueError(
            f"the weights in {shown(source)} fit none of {', '.join(_names())}; "
            "`eagc weights show` lists what is in the file"
        )
    name, before = fits[0]
    tensors = {k: _stored(k, v, half, target) for k, v in read_tensors(source).items()}
    beside = _tokenizer_beside(source, target)
    partial = target.with_name(f".{target.stem[:100]}.partial{target.suffix}")
    try:
        _write(partial, tensors)
        cosine = _compare(name, before, partial, exact=not half)
        os.replace(partial, target)
    except BaseException:
        for file in beside:
            file.unlink(missing_ok=True)
        raise
    finally:
        partial.unlink(missing_ok=True)
    size = target.stat().st_size
    return Converted(target, name, len(tensors), size, cosine, beside)


def _names() -> list[str]:
    return [name for name in registry.names() if _reads_weights(name)]


def _reads_weights(name: str) -> bool:
    """Whether a backbone's loader looks at the file that it is given."""
    try:
        registry.load(name, pathlib.Path("no such folder", "no such file.npz"))
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return isinstance(error, FileNotFoundError)
    return False


def _check_target(target: pathlib.Path) -> None:
    if target.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"weights are written to a file that ends in {' or '.join(ENDINGS)}; got "
            f"{shown(target)}"
        )
    if os.path.lexists(target):
        raise FileExistsError(
            f"{shown(target)} is there already; choose another name, or take it away"
        )


def _stored(
    name: str, value: np.ndarray, half: bool, target: pathlib.Path
) -> np.ndarray:
    """An array that the file can hold."""
    array = np.asarray(value)
    if array.dtype.kind == "U":  # a config as text: its bytes
        return np.frombuffer(str(array).encode(), np.uint8)
    floating = np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
    if half and floating and array.dtype != np.float16:
        return _halved(name, array.astype(np.float32))
    if array.dtype.name == "bfloat16" and target.suffix.lower() == ".npz":
        return array.astype(np.float32)  # NumPy's files know no bfloat16
    return np.ascontiguousarray(array)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    largest = np.max(np.abs(array), initial=0)
    if not largest <= np.finfo(np.float16).max:  # NaN too
        raise ValueError(
            f"{shown(name)} has an entry of size {largest}, which float16 can't hold: "
            "convert without --half"
        )
    return array.astype(np.float16)


def _write(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    if path.suffix.lower() == ".npz":
        _files.write_with(
            path, lambda file: np.savez(file, allow_pickle=False, **tensors)
        )
        return
    from safetensors.numpy import save

    _files.write_bytes(path, save(tensors))


def _tokenizer_beside(
    source: pathlib.Path, target: pathlib.Path
) -> tuple[pathlib.Path, ...]:
    there, here = source.with_name(_TOKENIZER), target.with_name(_TOKENIZER)
    if not there.is_file():
        return ()
    if here.exists():
        if here.read_bytes() == there.read_bytes():
            return ()
        raise FileExistsError(
            f"{shown(here)} is another tokenizer than these weights have: write them to "
            "a folder of their own"
        )
    here.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(there, here)
    return (here,)


def _compare(name: str, before: Backbone, path: pathlib.Path, *, exact: bool) -> float:
    """The least cosine of features of the old and the new file."""
    after = registry.load(name, path)
    first, second = _features(before), _features(after)
    if exact and not np.array_equal(first, second):
        raise ValueError(
            f"{name} gives other features with the new file than with the old one: the "
            "file was not kept"
        )
    cosine = 1.0 if exact else float(np.min(_cosines(first, second)))
    if not cosine >= _LEAST_COSINE:
        raise ValueError(
            f"float16 changes the features of {name} too much, to a cosine of "
            f"{cosine:.4f}: convert without --half"
        )
    return cosine


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.sum(first * second, axis=1) / np.maximum(lengths, 1e-30)


def _features(backbone: Backbone) -> np.ndarray:
    """Of two items that are the same each time."""
    items: Sequence[Item] = _SENTENCES
    if backbone.kind == "image":
        random = np.random.default_rng(0)
        items = [random.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(2)]
    arrays = backbone.collate([backbone.prepare(item) for item in items])
    if not isinstance(backbone, nnx.Module):
        return np.asarray(backbone.readout(backbone.prefix(arrays, 0), 0))
    return np.asarray(_run(*nnx.split(backbone), arrays))


@functools.partial(jax.jit, static_argnums=0)
def _run(graph: nnx.GraphDef[Backbone], weights: Params, arrays: PyTree) -> jax.Array:
    """Compiled once for networks that differ in their weights alone."""
    model = nnx.merge(graph, weights)
    return model.readout(model.prefix(arrays, 0), 0)
