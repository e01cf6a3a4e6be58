"""Gram matrices of per-objective updates: all that most aggregators need to know.

Two representations. :func:`gram_matrix` returns inner products as they are. Inside, an
aggregator works on a :class:`Gram`: cosines, norms relative to the largest, and that
largest norm, each well inside float32's range whatever the gradients' units are, where
their squares would not be.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from eagc_jax import blocks as blocks_lib
from eagc_jax.blocks import GLOBAL, Granularity, Layout
from eagc_jax.objectives import check_objective_axis, expand_to, named_leaves

_HIGHEST = jax.lax.Precision.HIGHEST


class Gram(NamedTuple):
    """A Gram matrix in parts: ``g_i . g_j = scale^2 norms_i norms_j cosines_ij``.

    An objective whose gradient is zero, or that takes no part, has norm 0, cosine 0 with
    the others and 1 with itself, so that systems in the cosines stay regular.
    """

    cosines: jax.Array  # shape=(K, K), float: unit diagonal, symmetric.
    norms: jax.Array  # shape=(K,), float, in [0, 1]: relative to the largest.
    scale: jax.Array  # shape=(), float: the largest norm, in the gradients' units.

    @property
    def matrix(self) -> jax.Array:
        """The Gram matrix over ``scale^2``: its largest diagonal entry is 1."""
        return self.cosines * self.norms[:, None] * self.norms[None, :]


def split_gram(gram: jax.typing.ArrayLike) -> Gram:
    """A ``(K, K)`` Gram matrix in parts.

    Args:
      gram: symmetric, positive semi-definite; of any float dtype.

    Returns:
      Its :class:`Gram`, float32 or wider.
    """
    gram = jnp.asarray(gram)
    gram = gram.astype(np.promote_types(gram.dtype, np.float32))
    exponents = jnp.zeros(gram.shape[:1], jnp.int32)
    return from_scaled(0.5 * (gram + gram.T), exponents)


def from_scaled(gram: jax.Array, exponents: jax.Array) -> Gram:
    """Parts of the Gram matrix of rows that were multiplied by ``2^exponents``."""
    squares = jnp.diagonal(gram)
    positive = squares > 0
    roots = jnp.sqrt(jnp.where(positive, squares, 1.0))
    cosines = gram / roots[:, None] / roots[None, :]
    cosines = jnp.where(positive[:, None] & positive[None, :], cosines, 0.0)
    eye = jnp.eye(gram.shape[0], dtype=bool)
    # A NaN on the diagonal stays: it must reach the weights.
    unit = jnp.where(jnp.isnan(squares), squares, 1.0)
    cosines = jnp.where(eye, unit[:, None], jnp.clip(cosines, -1.0, 1.0))
    base = jnp.min(jnp.where(positive, exponents, jnp.iinfo(jnp.int32).max))
    base = jnp.where(jnp.any(positive), base, 0)
    norms = jnp.where(positive | jnp.isnan(squares), jnp.sqrt(squares), 0.0)
    norms = norms * _power_of_two(base - exponents, gram.dtype)
    largest = jnp.max(norms)
    norms = norms / jnp.where(largest > 0, largest, 1.0)
    # In two halves: the power alone may leave the range where the product doesn't.
    half = -base // 2
    scale = largest * _power_of_two(half, gram.dtype)
    scale = scale * _power_of_two(-base - half, gram.dtype)
    return Gram(cosines, norms, scale)


def gram_matrix(updates: Any, granularity: Granularity = "global") -> jax.Array:
    r"""The inner products :math:`G_{kl} = \langle g_k, g_l \rangle` of K updates.

    One pass over the leaves, each in place: nothing is flattened into a vector or
    concatenated. Sums are made in float32 at the highest precision the device has
    (float64 for float64 leaves). Complex leaves count with the real part of the product.

    Args:
      updates: per-objective updates, leaves ``(K, *param.shape)``.
      granularity: "global", "tensor", "channel" (one block per output unit; see
        :func:`eagc_jax.assess_energy`), or a function ``(path, shape)`` to the axes that
        one block spans.

    Returns:
      ``(K, K)`` for "global"; else ``(blocks, K, K)``, blocks in tree order.

    Raises:
      ValueError: a leaf without the objective axis, or a granularity that isn't one of
        these.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import gram_matrix
      >>> gram_matrix({"w": jnp.array([[3.0, 4.0], [1.0, 0.0]])})
      Array([[25.,  3.],
             [ 3.,  1.]], dtype=float32)
    """
    number = check_objective_axis(updates, None)
    leaves = named_leaves(updates)
    check_gram_granularity(granularity)
    layout = blocks_lib.layout_of_updates(granularity, leaves)
    grams = _block_grams(leaves, layout, number)
    return grams[0] if granularity == GLOBAL else grams


def cross_gram(left: Any, right: Any) -> jax.Array:
    """The inner products of K with L updates: ``(K, L)``, as :func:`gram_matrix`.

    Args:
      left: leaves ``(K, *param.shape)``.
      right: leaves ``(L, *param.shape)``, the same tree otherwise.

    Returns:
      ``(K, L)``, float32 (float64 for float64 leaves).

    Raises:
      ValueError: leaves without an objective axis, or trees that differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import cross_gram
      >>> cross_gram({"w": jnp.eye(2)}, {"w": jnp.array([[3.0, 4.0]])})
      Array([[3.],
             [4.]], dtype=float32)
    """
    number, other = check_objective_axis(left, None), check_objective_axis(right, None)
    a, b = named_leaves(left), named_leaves(right)
    if list(a) != list(b) or any(np.shape(a[n])[1:] != np.shape(b[n])[1:] for n in a):
        raise ValueError(
            "left and right must be the same tree but for their objective axes; got "
            f"{ {n: np.shape(x) for n, x in a.items()} } and "
            f"{ {n: np.shape(x) for n, x in b.items()} }."
        )
    total = jnp.zeros((number, other), jnp.float32)
    for name in a:
        total = total + _inner(_widen(a[name]), _widen(b[name]))
    return total


def gram_blocks(
    leaves: dict[str, jax.Array], layout: Layout, active: jax.Array
) -> tuple[Gram, jax.Array]:
    """The Gram of every block in parts, with a leading axis of blocks; who is finite.

    Squares leave float32's range long before the gradients do. So the matrix is computed
    as it is, and only where a diagonal entry is close to that range's ends it is computed
    again, from rows multiplied by a power of two.

    Args:
      leaves: by name, ``(K, *shape)``.
      layout: of the blocks.
      active: ``(K,)`` bool: objectives that take part; the others' entries are ignored.

    Returns:
      ``Gram`` with leaves (B, K, K), (B, K), (B,), and a ``(K,)`` bool: active objectives
      without a NaN or an infinity, or inactive ones. A non-finite one takes no part.
    """
    number = active.shape[0]
    zero = jnp.zeros((number,), jnp.int32)
    grams = _block_grams(leaves, layout, number)
    total = jnp.sum(jnp.diagonal(grams, axis1=1, axis2=2), axis=0)
    info = jnp.finfo(grams.dtype)
    # Entries that underflow are then below eps of the norm, and sums don't overflow.
    small, large = float(info.tiny) / float(info.eps) ** 2, float(info.max) ** 0.75
    in_range = (total > small) & (total < large)

    def rescaled():
        exponents = _exponents(leaves, number)
        return _block_grams(leaves, layout, number, exponents), exponents

    grams, exponents = jax.lax.cond(
        jnp.all(in_range | ~active), lambda: (grams, zero), rescaled
    )
    total = jnp.sum(jnp.diagonal(grams, axis1=1, axis2=2), axis=0)
    finite = jnp.isfinite(total)
    keep = active & finite
    grams = jnp.where(keep[:, None] & keep[None, :], grams, 0.0)
    parts = jax.vmap(from_scaled, in_axes=(0, None))(grams, exponents)
    return parts, finite | ~active


def check_gram_granularity(granularity: Any) -> None:
    """Raises ValueError for a granularity without Gram matrices."""
    blocks_lib.check_granularity(granularity)
    if granularity == "element":
        raise ValueError(
            "granularity 'element' has no Gram matrix worth a solve: use 'global', "
            "'tensor', 'channel' or a function (path, shape) -> axes of one block."
        )


# ---------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------

# XLA's matrix product on CPU packs its operands: for K rows of millions of columns that
# costs several times their reading. Over blocks of so many entries, which stay in cache,
# it doesn't; of a few rows, blocks of twice as many. Leaves of fewer than two blocks are
# one product.
_BLOCK_ENTRIES, _FEW_ROWS = 2**15, 8
_MIN_BLOCK = 512  # columns
# For two rows, and for a few rows' channels, products pair by pair are quicker still.
_PAIRS_OF_ROWS, _PAIRS_OF_CHANNELS = 2, 8
_CHANNEL_ROWS = 32


def _block_grams(
    leaves: dict[str, jax.Array],
    layout: Layout,
    number: int,
    exponents: jax.Array | None = None,
) -> jax.Array:
    """``(B, K, K)``: of rows multiplied by ``2^exponents``; B = 1 for "global"."""
    if layout.alone:
        raise ValueError(
            "a granularity for Gram matrices must let a block span at least one axis of "
            f"a matrix; it spans none of leaf '{layout.alone[0]}'."
        )
    parts: list[jax.Array] = []
    for name, leaf in leaves.items():
        axes = layout.axes[name]
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        # <a, b> of complex numbers, its real part: that of the parts, added.
        halves = [leaf] if real else [leaf.real, leaf.imag]
        found = [_leaf_gram(half, axes, exponents) for half in halves]
        parts.append(found[0] if real else found[0] + found[1])
    if layout.granularity == GLOBAL or not parts:
        return sum(parts, jnp.zeros((1, number, number), jnp.float32))
    return jnp.concatenate(parts, axis=0)


def _leaf_gram(
    leaf: jax.Array, axes: tuple[int, ...], exponents: jax.Array | None
) -> jax.Array:
    """``(K, *shape)`` to ``(blocks, K, K)``; a block spans ``axes`` of the parameter."""
    number = leaf.shape[0]
    summed = tuple(axis + 1 for axis in axes)
    kept = tuple(axis for axis in range(1, leaf.ndim) if axis not in summed)
    if not leaf.size:
        blocks = math.prod(leaf.shape[axis] for axis in kept)
        return jnp.zeros((blocks, number, number), _wide_dtype(leaf))

    def whole(leaf):
        wide = _scaled(leaf, exponents)
        found = jax.lax.dot_general(
            wide,
            wide,
            ((summed, summed), (kept, kept)),
            precision=_HIGHEST,
            out_sharding=_explicit(leaf, kept),
        )
        if kept and _explicit(leaf, kept) is not None:  # block values are small
            found = jax.sharding.reshard(found, PartitionSpec(*[None] * found.ndim))
        return found.reshape(-1, number, number)

    if may_be_sharded(leaf):  # slices of a sharded axis would move it
        return whole(leaf)
    if not kept:
        flat = (number, leaf.size // number)
        by_pairs = number <= _PAIRS_OF_ROWS
        block = _block_columns(number)
        kernel = _pairs if by_pairs else _rows_gram
        if flat[1] < 2 * block:
            return whole(leaf)
        return jax.lax.platform_dependent(
            leaf,
            cpu=lambda leaf: _square(
                sum_over_blocks(
                    leaf, flat, block, lambda part: kernel(_scaled(part, exponents))
                ),
                number,
                by_pairs,
            )[None],
            default=whole,
        )
    if min(kept) < max(summed):  # (K, *summed, *kept) is the usual order
        return whole(leaf)
    rows = math.prod(leaf.shape[axis] for axis in summed)
    shape = (number, rows, leaf.size // (number * rows))
    by_pairs = number <= _PAIRS_OF_CHANNELS
    kernel = _pairs if by_pairs else _column_grams
    return jax.lax.platform_dependent(
        leaf,
        cpu=lambda leaf: _square(
            sum_over_blocks(
                leaf,
                shape,
                _CHANNEL_ROWS,
                lambda part: kernel(_scaled(part, exponents)),
            ),
            number,
            by_pairs,
        ),
        default=whole,
    )


def _block_columns(number: int) -> int:
    """Of one block of ``number`` rows."""
    if number <= _PAIRS_OF_ROWS:
        return _BLOCK_ENTRIES
    entries = _BLOCK_ENTRIES * (2 if number <= _FEW_ROWS else 1)
    return max(entries // number, _MIN_BLOCK)


def sum_over_blocks(
    leaf: jax.Array, shape: tuple[int, ...], block: int, function: Any
) -> jax.Array:
    """The sum of ``function`` over blocks of a leaf.

    Args:
      leaf: an array.
      shape: what it is seen as, of at least two axes.
      block: the width of a slice of axis 1; the last one may be less.
      function: from a slice to an array.

    Returns:
      What ``function`` returns, summed.
    """
    number, rest = divmod(shape[1], block)

    def body(index, total):
        # Reshaped in here: out there XLA may write the leaf a second time, so shaped.
        part = jax.lax.dynamic_slice_in_dim(
            leaf.reshape(shape), index * block, block, axis=1
        )
        return total + function(part)

    last = leaf.reshape(shape)[:, number * block :]
    if not number:
        return function(last)
    of_one = jax.eval_shape(lambda x: function(x.reshape(shape)[:, :block]), leaf)
    total = jax.lax.fori_loop(0, number, body, jnp.zeros(of_one.shape, of_one.dtype))
    return total + function(last) if rest else total


def _rows_gram(rows: jax.Array) -> jax.Array:
    """``(K, n)`` to ``(K, K)``."""
    return jax.lax.dot_general(rows, rows, (((1,), (1,)), ((), ())), precision=_HIGHEST)


def _column_grams(rows: jax.Array) -> jax.Array:
    """``(K, rows, columns)`` to ``(K, K, columns)``: a sum over rows, per column."""
    return jnp.sum(rows[:, None] * rows[None], axis=2)


def _pairs(rows: jax.Array) -> jax.Array:
    """``(K, n, ...)`` to ``(pairs k <= l, ...)``: a sum over n of their products."""
    number = rows.shape[0]
    found = [
        jnp.sum(rows[k] * rows[m], axis=0)
        for k in range(number)
        for m in range(k, number)
    ]
    return jnp.stack(found)


def _square(found: jax.Array, number: int, by_pairs: bool) -> jax.Array:
    """What a kernel found, as ``(K, K)`` or ``(columns, K, K)``."""
    if by_pairs:
        rows, columns = np.triu_indices(number)
        index = np.zeros((number, number), int)
        index[rows, columns] = index[columns, rows] = np.arange(len(rows))
        found = found[index]
    return found.transpose(2, 0, 1) if found.ndim == 3 else found


def _inner(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, *shape)`` and ``(L, *shape)`` to ``(K, L)``."""
    axes = tuple(range(1, left.ndim))
    return jax.lax.dot_general(
        left,
        right.conj(),
        ((axes, axes), ((), ())),
        precision=_HIGHEST,
        out_sharding=_explicit(left),
    ).real


def may_be_sharded(leaf: jax.Array) -> bool:
    """Whether another device may hold a part: a tracer doesn't say where it lives."""
    mesh = jax.typeof(leaf).sharding.mesh
    if not mesh.empty:
        return not mesh.are_all_axes_manual
    if isinstance(leaf, Tracer):
        return jax.device_count() > 1
    return len(leaf.sharding.device_set) > 1


def _explicit(leaf: jax.Array, kept: tuple[int, ...] = ()) -> NamedSharding | None:
    """Where axes are explicit a sum over a sharded one must say where it goes.

    Kept axes stay where they are, or the whole leaf would be gathered for the product.
    """
    sharding = jax.typeof(leaf).sharding
    if sharding.mesh.empty or not sharding.mesh._any_axis_explicit:
        return None
    axes = [sharding.spec[axis] for axis in kept]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes, None, None))


def _wide_dtype(leaf: jax.Array) -> Any:
    return np.promote_types(leaf.dtype, np.float32)


def _widen(leaf: jax.Array) -> jax.Array:
    return leaf.astype(_wide_dtype(leaf))


def _scaled(leaf: jax.Array, exponents: jax.Array | None) -> jax.Array:
    """Rows times ``2^exponents``, in two halves: neither factor leaves the range."""
    leaf = _widen(leaf)
    if exponents is None:
        return leaf
    half = exponents // 2
    for part in (half, exponents - half):
        leaf = leaf * expand_to(_power_of_two(part, leaf.dtype), leaf.ndim)
    return leaf


def _power_of_two(exponents: jax.Array, dtype: Any) -> jax.Array:
    if dtype != np.float32:
        return jnp.ldexp(jnp.ones([], dtype), exponents)
    # Its bits, exact and a few instructions; below the smallest normal number, that.
    bits = (jnp.clip(exponents, -126, 127) + 127) << 23
    return jax.lax.bitcast_convert_type(bits.astype(jnp.int32), jnp.float32)


def _exponents(leaves: dict[str, jax.Array], number: int) -> jax.Array:
    """Per objective the power of two that brings its largest entry near 1: ``(K,)``."""
    largest = jnp.zeros((number,), jnp.float32)
    for leaf in leaves.values():
        wide = jnp.abs(_widen(leaf))
        top = jnp.max(wide, axis=tuple(range(1, wide.ndim)), initial=0.0)
        largest = jnp.maximum(largest, top)
    usable = jnp.isfinite(largest) & (largest > 0)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1.0))
    return jnp.where(usable, -exponent, 0).astype(jnp.int32)
