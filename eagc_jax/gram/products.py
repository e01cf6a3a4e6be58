"""The Gram matrix of one leaf: one definition, a kernel for each platform.

``(K, *shape)`` to ``(K, K, *kept)``: inner products over the axes that a block spans, of
rows multiplied by powers of two. What each platform gets was measured:

- **TPU**, and anything that isn't named here: every pair of rows multiplied entry by
  entry and summed, ``sum(g[:, None] * g[None])``, which XLA fuses into one reduction. The
  vector unit multiplies float32 exactly as IEEE does, so each product is rounded once,
  where a matrix product at default precision would first round its operands to bfloat16;
  at ``Precision.HIGHEST`` the same accuracy costs the TPU's compiler 2 to 10 seconds a
  leaf. Sums are the same float32 tree sums that every reduction makes.
- **GPU**: the same for up to four objectives, where it reads the gradients about once;
  a matrix product in full float32 (no TF32) for more.
- **CPU**: blocks that stay in cache, multiplied pair by pair or as a small matrix
  product; small and sharded leaves entry by entry, which is more exact there, too.

Nothing is flattened that another device may hold a part of: axes are reduced in place.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from eagc_jax.gram.metric import PLAIN, LeafMetric
from eagc_jax.gram.slices import sum_over_blocks
from eagc_jax.objectives import expand_to

HIGHEST = jax.lax.Precision.HIGHEST

# XLA's matrix product on CPU packs its operands: for K rows of millions of columns that
# costs several times their reading. Over blocks of so many entries, which stay in cache,
# it doesn't; of a few rows, blocks of twice as many. Leaves of fewer than two blocks are
# one product.
_BLOCK_ENTRIES, _FEW_ROWS = 2**15, 8
_MIN_BLOCK = 512  # columns
# For two rows, and for a few rows' channels, products pair by pair are quicker still.
_PAIRS_OF_ROWS, _PAIRS_OF_CHANNELS = 2, 8
_CHANNEL_ROWS = 32
# On GPU, for a ViT-B/16 on an H100: K = 2 takes 0.9 ms entry by entry and 1.8 as a
# product, K = 4 takes 1.7 and 1.5, K = 8 takes 7.3 and 2.5.
_GPU_PRODUCT_FROM = 5
# Entry by entry the work grows with K squared; from here on it isn't worth its compiling.
_PRODUCT_FROM = 33


def leaf_grams(
    leaves: list[jax.Array],
    kept: list[tuple[int, ...]],
    powers: jax.Array | None = None,
    metrics: list[LeafMetric] | None = None,
) -> list[jax.Array]:
    """``(K, K, *kept)`` of every leaf, by the kernel of the platform it is lowered for.

    Args:
      leaves: real, ``(K, *shape)``.
      kept: for every leaf the axes, of ``(K, *shape)``, that are not summed.
      powers: ``(K, K)`` float: row k is multiplied by any entry of its row k, all of them
        the same power of two; None for ones. A matrix, since XLA would write out rows
        that are multiplied by a vector of its own before it multiplies pairs of them.
      metrics: one for every leaf, all with or all without ``rest``; None for plain ones.

    Returns:
      Float32, or the leaf's dtype where that is wider; ``(K, K + 1, *kept)`` with a
      ``rest``.
    """
    if not leaves:
        return []
    metrics = metrics or [PLAIN] * len(leaves)

    def everywhere(leaves, metrics):
        entries = leaves[0].shape[0] < _PRODUCT_FROM
        kernel = _entry_by_entry if entries else _product
        rows = zip(leaves, kept, metrics, strict=True)
        return [kernel(x, k, powers, m) for x, k, m in rows]

    def on_cpu(leaves, metrics):
        rows = zip(leaves, kept, metrics, strict=True)
        return [_on_cpu(x, k, powers, m) for x, k, m in rows]

    def on_gpu(leaves, metrics):
        def with_powers():
            return everywhere(leaves, metrics)

        def unscaled():  # a scaled operand would be written out first
            rows = zip(leaves, kept, metrics, strict=True)
            return [_product(x, k, None, m) for x, k, m in rows]

        if powers is None:
            return unscaled()
        return jax.lax.cond(jnp.any(powers != 1), with_powers, unscaled)

    others = {"cuda": on_gpu, "rocm": on_gpu}
    if leaves[0].shape[0] < _GPU_PRODUCT_FROM:
        others = {}
    return jax.lax.platform_dependent(
        leaves, metrics, cpu=on_cpu, default=everywhere, **others
    )


def leaf_rests(
    leaves: list[jax.Array],
    kept: list[tuple[int, ...]],
    powers: jax.Array | None,
    metrics: list[LeafMetric],
) -> list[jax.Array]:
    """``(K, 1, *kept)`` of every leaf: products with the metric's rest alone."""

    def of_leaves(kernel, leaves, metrics):
        rows = zip(leaves, kept, metrics, strict=True)
        return [kernel(leaf, k, powers, metric) for leaf, k, metric in rows]

    return jax.lax.platform_dependent(
        leaves,
        metrics,
        cpu=functools.partial(of_leaves, _rest_on_cpu),
        default=functools.partial(of_leaves, _rest),
    )


# ---------------------------------------------------------------------------
# Kernels: traced once for leaves of the same shape
# ---------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def _entry_by_entry(
    leaf: jax.Array,
    kept: tuple[int, ...],
    powers: jax.Array | None,
    metric: LeafMetric = PLAIN,
) -> jax.Array:
    wide = leaf.astype(wide_dtype(leaf))
    axes = tuple(axis for axis in range(1, leaf.ndim) if axis not in kept)
    of_left, of_right = (None, None) if powers is None else (powers, powers.T)
    left, right = _times(wide[:, None], of_left), _times(wide[None], of_right)
    # The metric comes behind the powers: what doesn't change from one turn of a loop to
    # the next is taken out of it, and written out.
    found = jnp.sum(metric.weigh(left) * right, axis=tuple(axis + 1 for axis in axes))
    if metric.rest is None:
        return found
    # A sum of its own: joined with the rows the rest would be written out with them.
    return jnp.concatenate([found, _rest(leaf, kept, powers, metric)], axis=1)


@functools.partial(jax.jit, static_argnums=1)
def _rest(
    leaf: jax.Array,
    kept: tuple[int, ...],
    powers: jax.Array | None,
    metric: LeafMetric,
) -> jax.Array:
    wide = leaf.astype(wide_dtype(leaf))
    axes = tuple(axis for axis in range(1, leaf.ndim) if axis not in kept)
    left = _times(wide, None if powers is None else powers[:, 0])
    assert metric.rest is not None
    return jnp.sum(left * metric.rest.astype(wide.dtype)[None], axis=axes)[:, None]


@functools.partial(jax.jit, static_argnums=1)
def _rest_on_cpu(
    leaf: jax.Array,
    kept: tuple[int, ...],
    powers: jax.Array | None,
    metric: LeafMetric,
) -> jax.Array:
    number, size = leaf.shape[0], leaf.size // leaf.shape[0]
    if may_be_sharded(leaf) or kept or size < 2 * _BLOCK_ENTRIES:
        return _rest(leaf, kept, powers, metric)
    assert metric.rest is not None

    def of_block(part, rest):
        return _cross_pairs(scaled(part, powers), rest.astype(wide_dtype(part)))

    shapes = [(number, size), (1, size)]
    return sum_over_blocks([leaf, metric.rest], shapes, _BLOCK_ENTRIES, of_block)


def _times(values: jax.Array, factor: jax.Array | None) -> jax.Array:
    if factor is None:
        return values
    return values * expand_to(factor.astype(values.dtype), values.ndim)


@functools.partial(jax.jit, static_argnums=1)
def _product(
    leaf: jax.Array,
    kept: tuple[int, ...],
    powers: jax.Array | None,
    metric: LeafMetric = PLAIN,
) -> jax.Array:
    summed = tuple(axis for axis in range(1, leaf.ndim) if axis not in kept)
    wide = scaled(leaf, powers)
    found = jax.lax.dot_general(
        wide,
        _weighed_with_rest(wide, metric),
        ((summed, summed), (kept, kept)),
        precision=HIGHEST,
        out_sharding=explicit(leaf, kept),
    )
    return jnp.moveaxis(found, (-2, -1), (0, 1)) if kept else found


@functools.partial(jax.jit, static_argnums=1)
def _on_cpu(
    leaf: jax.Array,
    kept: tuple[int, ...],
    powers: jax.Array | None,
    metric: LeafMetric = PLAIN,
) -> jax.Array:
    number = leaf.shape[0]
    summed = tuple(axis for axis in range(1, leaf.ndim) if axis not in kept)
    plain = _entry_by_entry if number < _PRODUCT_FROM else _product
    # Slices of a sharded axis would move it; (K, *summed, *kept) is the usual order.
    if may_be_sharded(leaf) or not leaf.size or (kept and min(kept) < max(summed)):
        return plain(leaf, kept, powers, metric)
    if not kept:
        block = _block_columns(number)
        if leaf.size // number < 2 * block:
            return plain(leaf, kept, powers, metric)
        shape, pairs = (leaf.size // number,), number <= _PAIRS_OF_ROWS
        kernel = _pairs if pairs else _rows_gram
    else:
        rows = math.prod(leaf.shape[axis] for axis in summed)
        shape = (rows, leaf.size // (number * rows))
        block, pairs = _CHANNEL_ROWS, number <= _PAIRS_OF_CHANNELS
        kernel = _pairs if pairs else _column_grams
    own = {"diagonal": metric.diagonal, "rest": metric.rest}
    given = [(name, x) for name, x in own.items() if x is not None]

    def of_block(part, *others):
        part = scaled(part, powers)
        names = [name for name, _ in given]
        own = {n: x[0] for n, x in zip(names, others, strict=True)}
        own = LeafMetric(**own, plain=metric.plain)
        return kernel(part, _weighed_with_rest(part, own))

    found = sum_over_blocks(
        [leaf, *[x for _, x in given]],
        [(number, *shape)] + [(1, *shape)] * len(given),
        block,
        of_block,
    )
    found = _square(found, number) if pairs else found
    sizes = tuple(leaf.shape[axis] for axis in kept)
    return found.reshape(*found.shape[:2], *sizes)


def _weighed_with_rest(rows: jax.Array, metric: LeafMetric) -> jax.Array:
    """The right factor: ``(K, ...)``, or ``(K + 1, ...)``."""
    weighed = metric.weigh(rows)
    if metric.rest is None:
        return weighed
    return jnp.concatenate([weighed, metric.rest.astype(rows.dtype)[None]], axis=0)


def _block_columns(number: int) -> int:
    """Of one block of ``number`` rows."""
    if number <= _PAIRS_OF_ROWS:
        return _BLOCK_ENTRIES
    entries = _BLOCK_ENTRIES * (2 if number <= _FEW_ROWS else 1)
    return max(entries // number, _MIN_BLOCK)


def _rows_gram(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, n)`` and ``(L, n)`` to ``(K, L)``."""
    return jax.lax.dot_general(left, right, (((1,), (1,)), ((), ())), precision=HIGHEST)


def _column_grams(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, rows, columns)`` to ``(K, L, columns)``: a sum over rows, per column."""
    return jnp.sum(left[:, None] * right[None], axis=2)


def _pairs(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, n, ...)`` to ``(pairs k <= l, ...)``: a sum over n of their products.

    Behind them, where the right side has a row more, those with it.
    """
    number = left.shape[0]
    found = [
        jnp.sum(left[k] * right[m], axis=0)
        for k in range(number)
        for m in range(k, number)
    ]
    for row in right[number:]:
        found += [jnp.sum(left[k] * row, axis=0) for k in range(number)]
    return jnp.stack(found)


def _cross_pairs(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, n)`` and ``(L, n)`` to ``(K, L)``, each pair's sum by itself."""
    number, other = left.shape[0], right.shape[0]
    found = [jnp.sum(left[k] * right[m]) for k in range(number) for m in range(other)]
    return jnp.stack(found).reshape(number, other)


def _square(found: jax.Array, number: int) -> jax.Array:
    """``(pairs, ...)`` to ``(K, K, ...)``, or ``(K, K + 1, ...)``."""
    rows, columns = np.triu_indices(number)
    wide = 1 + (len(found) > len(rows))
    index = np.zeros((number, number + wide - 1), np.int32)
    index[rows, columns] = index[columns, rows] = np.arange(len(rows))
    if wide > 1:
        index[:, -1] = len(rows) + np.arange(number)
    return found[index]


# ---------------------------------------------------------------------------
# What kernels share
# ---------------------------------------------------------------------------


def inner(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K, *shape)`` and ``(L, *shape)``, real, to ``(K, L)``."""

    def entries(left, right):
        axes = tuple(range(2, left.ndim + 1))
        return jnp.sum(left[:, None] * right[None], axis=axes)

    def product(left, right):
        axes = tuple(range(1, left.ndim))
        return jax.lax.dot_general(
            left,
            right,
            ((axes, axes), ((), ())),
            precision=HIGHEST,
            out_sharding=explicit(left),
        )

    def in_blocks(left, right):
        rows, others, size = left.shape[0], right.shape[0], left.size // left.shape[0]
        block = max(_BLOCK_ENTRIES // max(rows, others), _MIN_BLOCK)
        if may_be_sharded(left) or may_be_sharded(right) or size < 2 * block:
            return product(left, right)
        few = max(rows, others) <= _PAIRS_OF_ROWS
        kernel = _cross_pairs if few else product
        return sum_over_blocks(
            (left, right), ((rows, size), (others, size)), block, kernel
        )

    if max(left.shape[0], right.shape[0]) >= _PRODUCT_FROM:
        return product(left, right)
    return jax.lax.platform_dependent(left, right, cpu=in_blocks, default=entries)


def real_parts(leaf: jax.Array) -> list[jax.Array]:
    """The leaf, or of a complex one its real and its imaginary part."""
    # <a, b> of complex numbers, its real part: that of the parts, added.
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return [leaf.real, leaf.imag]
    return [leaf]


def may_be_sharded(leaf: jax.Array) -> bool:
    """Whether another device may hold a part: a tracer doesn't say where it lives."""
    mesh = jax.typeof(leaf).sharding.mesh
    if not mesh.empty:
        return not mesh.are_all_axes_manual
    if isinstance(leaf, Tracer):
        return jax.device_count() > 1
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def explicit(leaf: jax.Array, kept: tuple[int, ...] = ()) -> NamedSharding | None:
    """Where axes are explicit a sum over a sharded one must say where it goes.

    Kept axes stay where they are, or the whole leaf would be gathered for the product.
    """
    sharding = jax.typeof(leaf).sharding
    if sharding.mesh.empty or not sharding.mesh._any_axis_explicit:
        return None
    axes = [sharding.spec[axis] for axis in kept]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes, None, None))


def wide_dtype(leaf: jax.Array) -> np.dtype:
    """Float32, or the leaf's own dtype where that is wider."""
    return np.promote_types(leaf.dtype, np.float32)


def scaled(leaf: jax.Array, powers: jax.Array | None) -> jax.Array:
    """Rows times their powers of two, in float32 or wider."""
    leaf = leaf.astype(wide_dtype(leaf))
    if powers is None:
        return leaf
    return leaf * expand_to(powers[:, 0].astype(leaf.dtype), leaf.ndim)
