"""Two trees: of the same kind, and of nearly the same numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.testing.failures import Violation
from eagc_jax.typing import PyTree


def kind_of(leaf: PyTree) -> str:
    """Shape, dtype and weak type, as JAX writes them: ``float32[3,4]``."""
    kind = jax.typeof(leaf)
    weak = ", weak" if getattr(kind, "weak_type", False) else ""
    return f"{kind.dtype}{list(kind.shape)}{weak}"


def differing_kinds(left: PyTree, right: PyTree, what: str) -> Violation | None:
    """What differs of structure, shapes, dtypes and weak types: a scan would refuse it.

    Args:
      left: what should be, of arrays or of ``jax.ShapeDtypeStruct``.
      right: what was found.
      what: a name for both.
    """
    one, two = jax.tree.structure(left), jax.tree.structure(right)
    if one != two:
        return Violation(f"{what} has the structure {two}", f"{one}")
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True
    )
    for (path, a), b in pairs:
        if kind_of(a) != kind_of(b):
            name = f"{what}{jax.tree_util.keystr(path)}"
            return Violation(f"{name} is {kind_of(b)}", kind_of(a))
    return None


def differing_numbers(
    left: PyTree,
    right: PyTree,
    tolerance: float,
    what: str,
    rounding: Collection[str] = (),
    *,
    alike: bool = False,
) -> Violation | None:
    """The first leaf that differs by more than the tolerance of its largest entry.

    Integers, booleans and keys may not differ at all; NaN equals NaN. Of leaves on whose
    path one of the names ``rounding`` is, only shapes are compared. Leaves that are
    ``alike``, sums of terms of one size, may be off by one rounding of the largest entry
    of all: that is what is left where the terms cancel.
    """
    one, two = jax.tree.structure(left), jax.tree.structure(right)
    if one != two:
        return Violation(f"{what} has the structure {two}", f"{one}")
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True
    )
    largest = max(map(_largest, jax.tree.leaves(left)), default=0.0) if alike else 0.0
    for (path, a), b in pairs:
        slack = largest * _step(a)
        a, b = numbers(a), numbers(b)
        name = f"{what}{jax.tree_util.keystr(path)}"
        if a.shape != b.shape:
            return Violation(f"{name} has the shape {b.shape}", f"{a.shape}")
        if not _named(path, rounding) and not _close(a, b, tolerance, slack):
            allowed = f"{tolerance:g} of the largest entry off {_short(a)}"
            return Violation(f"{name} is {_short(b)}", allowed)
    return None


def numbers(leaf: jax.typing.ArrayLike) -> np.ndarray:
    """NumPy of any leaf: floats as float64, keys as their data."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    found = np.asarray(leaf)
    if jnp.issubdtype(found.dtype, jnp.complexfloating):
        return found.astype(np.complex128)
    return (
        found.astype(np.float64) if jnp.issubdtype(found.dtype, np.inexact) else found
    )


def _named(path: Sequence[object], names: Collection[str]) -> bool:
    """Whether a key of the path is one of the names."""
    keys = (getattr(key, "name", getattr(key, "key", None)) for key in path)
    return any(key in names for key in keys)


def _largest(leaf: jax.typing.ArrayLike) -> float:
    """The largest finite entry of a leaf of floats."""
    found = numbers(leaf)
    if found.dtype.kind not in "fc":
        return 0.0
    return float(np.max(np.abs(found[np.isfinite(found)]), initial=0.0))


def _step(leaf: jax.typing.ArrayLike) -> float:
    """From 1 to the next number of a leaf's dtype."""
    dtype = jnp.result_type(leaf)
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def _close(a: np.ndarray, b: np.ndarray, tolerance: float, slack: float) -> bool:
    if a.dtype.kind not in "fc":
        return np.array_equal(a, b)
    atol = tolerance * _largest(a) + slack
    return np.allclose(b, a, rtol=0, atol=atol, equal_nan=True)


def _short(values: np.ndarray) -> str:
    return np.array2string(values, threshold=6, precision=6, separator=", ")
